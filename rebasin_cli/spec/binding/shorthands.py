"""The `axes` section: names for what an axis consists of, spelled out before anything else is asked.

A network whose parts repeat but are wired differently (a UNet's blocks read different streams) is written as one
table of its parts, whose lines say `in.{b}`, and one of its wiring: `in.4: up.3 + skip.7`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rebasin_cli.spec.binding.claims import Claim, Instance, Problem, instance_of
from rebasin_cli.spec.binding.resolve import dim_text
from rebasin_cli.spec.language.pattern import Axis, DimName, Part, Pattern, Product
from rebasin_cli.spec.language.permutation_spec import Shorthand
from rebasin_cli.spec.language.variables import Bindings, Pick, Ref, Value
from rebasin_cli.spec.limits import MOST_LEAVES


class _UnsaidError(Exception):
    """A name that looks like a shorthand, but the `axes` section does not have it."""


def spell_out(
    shorthands: Sequence[Shorthand], claims: Mapping[str, Claim]
) -> tuple[Mapping[str, Claim], list[Problem]]:
    """The claims with every shorthand in their patterns replaced by what it stands for."""
    if not shorthands:
        return claims, []
    speller = _Speller(shorthands)
    spelled: dict[str, Claim] = {}
    problems: list[Problem] = []
    for key, claim in claims.items():
        try:
            spelled[key] = speller.claim(claim)
        except _UnsaidError as unsaid:
            problems.append(Problem(f"{key}: {unsaid}", claim.line.line, "add a line for it to `axes`"))
    return spelled, problems


@dataclass(frozen=True, slots=True)
class _Found:
    shorthand: Shorthand
    bindings: Bindings


class _Speller:
    def __init__(self, shorthands: Sequence[Shorthand]) -> None:
        self.shorthands: dict[str | Ref, list[Shorthand]] = {}
        for shorthand in shorthands:
            self.shorthands.setdefault(shorthand.name.parts[0], []).append(shorthand)
        self._known: dict[Instance, _Found] = {}
        self._left = MOST_LEAVES

    def claim(self, claim: Claim) -> Claim:
        pattern = claim.line.pattern
        if pattern is None or not any(name.parts[0] in self.shorthands for name in pattern.dim_names()):
            return claim
        spelled = Pattern(tuple(self._axis(axis, claim.bindings) for axis in pattern.axes))
        return replace(claim, line=replace(claim.line, pattern=spelled))

    def _axis(self, axis: Axis, bindings: Bindings) -> Axis:
        segments: list[Part] = []
        self._left -= len(axis.segments)
        if self._left < 0:
            raise _UnsaidError(f"the names of `axes` stand for more than {MOST_LEAVES:,} parts")
        for part in axis.segments:
            if isinstance(part, Product):
                segments.append(Product(tuple(self._axis(factor, bindings) for factor in part.factors)))
            elif isinstance(part, DimName) and part.parts[0] in self.shorthands:
                found = self._find(part, bindings)
                segments += self._axis(_bound(found.shorthand.pattern.axes[0], found.bindings), {}).segments
            else:
                segments.append(part)
        return Axis(tuple(segments))

    def _find(self, name: DimName, bindings: Bindings) -> _Found:
        instance = instance_of(name, bindings)
        if instance is None:
            raise _UnsaidError(f"`{name}` is a shorthand of `axes`, which is named plainly or with an offset")
        if instance not in self._known:
            fitting = [
                _Found(shorthand, found)
                for shorthand in self.shorthands[name.parts[0]]
                if (found := _unify(shorthand.name, instance)) is not None
            ]
            if not fitting:
                raise _UnsaidError(f"`axes` does not say what `{dim_text(instance)}` is")
            self._known[instance] = min(fitting, key=lambda f: len(f.bindings))
        return self._known[instance]


def _unify(name: DimName, instance: Instance) -> Bindings | None:
    """The bindings under which `name` is `instance`; a word with dots counts as several parts."""
    values: list[Value] = []
    for value in instance:
        pieces = value.split(".") if isinstance(value, str) else [value]
        values += [int(p) if isinstance(p, str) and p.isdigit() else p for p in pieces]
    if len(values) != len(name.parts):
        return None
    bindings: dict[str, Value] = {}
    for part, value in zip(name.parts, values, strict=True):
        if isinstance(part, str):
            if part != str(value):
                return None
        elif part.is_number != isinstance(value, int) or bindings.setdefault(part.variable, value) != value:
            return None
    return bindings


def _bound(axis: Axis, bindings: Bindings) -> Axis:
    """`axis` with the variables of a shorthand's name replaced by their values."""
    segments: list[Part] = []
    for part in axis.segments:
        if isinstance(part, Product):
            segments.append(Product(tuple(_bound(factor, bindings) for factor in part.factors)))
        elif isinstance(part, DimName):
            segments.append(DimName(tuple(_value(word, bindings) for word in part.parts)))
        else:
            segments.append(part)
    return Axis(tuple(segments))


def _value(part: str | Ref, bindings: Bindings) -> str | Ref:
    return str(part.value(bindings)) if isinstance(part, Ref) and part.pick is Pick.SAME else part
