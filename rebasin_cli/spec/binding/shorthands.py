"""The `axes` section: names for what an axis consists of, replaced by what they stand for before anything else.

A network whose parts repeat but are wired differently (a UNet's blocks read different streams) is written as one
table of its parts, whose lines say `in.{b}`, and one of its wiring: `in.4: up.3 + skip.7`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rebasin_cli.spec.binding.claims import Claim
from rebasin_cli.spec.language import MOST_LEAVES, Bindings, Pick, Ref, Value
from rebasin_cli.spec.language.pattern import Atom, Axis, DimName, Instance, Pattern, Segment, dim_text, instance_of
from rebasin_cli.spec.language.permutation_spec import Fault, Shorthand


class _ShorthandError(Exception):
    """A shorthand that cannot be replaced."""


def expand_shorthands(
    shorthands: Sequence[Shorthand], claims: Mapping[str, Claim]
) -> tuple[Mapping[str, Claim], list[Fault]]:
    """The claims with every shorthand in their patterns replaced by what it stands for."""
    expander = _Expander(shorthands)
    expanded: dict[str, Claim] = {}
    faults: list[Fault] = []
    for key, claim in claims.items():
        try:
            expanded[key] = expander.claim(claim)
        except _ShorthandError as error:
            faults.append(Fault(f"{key}: {error}", claim.line.line, "add a line for it to `axes`"))
    return expanded, faults


class _Expander:
    def __init__(self, shorthands: Sequence[Shorthand]) -> None:
        self.shorthands: dict[str | Ref, list[Shorthand]] = {}
        for shorthand in shorthands:
            self.shorthands.setdefault(shorthand.name.parts[0], []).append(shorthand)
        self._known: dict[Instance, Axis] = {}
        self._left = MOST_LEAVES

    def claim(self, claim: Claim) -> Claim:
        pattern = claim.line.pattern
        if pattern is None or not any(name.parts[0] in self.shorthands for name in pattern.dim_names()):
            return claim
        expanded = Pattern(tuple(self._expanded(axis, claim.bindings) for axis in pattern.axes))
        return replace(claim, line=replace(claim.line, pattern=expanded))

    def _expanded(self, axis: Axis, bindings: Bindings) -> Axis:
        self._left -= sum(1 for _ in axis.walk())
        if self._left < 0:
            raise _ShorthandError(f"the names of `axes` stand for more than {MOST_LEAVES:,} parts")

        def segments(atom: Atom) -> Iterable[Segment]:
            if not isinstance(atom, DimName) or atom.parts[0] not in self.shorthands:
                return (atom,)
            return self._expanded(self._axis_of(atom, bindings), {}).segments

        return axis.replaced(segments)

    def _axis_of(self, name: DimName, bindings: Bindings) -> Axis:
        """The axis of a shorthand with its variables replaced by values; shorthands inside it stay."""
        instance = instance_of(name, bindings)
        if instance is None:
            raise _ShorthandError(f"`{name}` is a shorthand of `axes`, which is named plainly or with an offset")
        if instance not in self._known:
            fitting = [
                (shorthand, found)
                for shorthand in self.shorthands[name.parts[0]]
                if (found := _match(shorthand.name, instance)) is not None
            ]
            if not fitting:
                raise _ShorthandError(f"`axes` does not say what `{dim_text(instance)}` is")
            shorthand, found = min(fitting, key=lambda pair: len(pair[1]))
            self._known[instance] = _with_values(shorthand.pattern.axes[0], found)
        return self._known[instance]


def _match(name: DimName, instance: Instance) -> Bindings | None:
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


def _with_values(axis: Axis, bindings: Bindings) -> Axis:
    """`axis` with the variables of a shorthand's name replaced by their values."""

    def segments(atom: Atom) -> Iterable[Segment]:
        if not isinstance(atom, DimName):
            return (atom,)
        return (replace(atom, parts=tuple(_value(part, bindings) for part in atom.parts)),)

    return axis.replaced(segments)


def _value(part: str | Ref, bindings: Bindings) -> str | Ref:
    return str(part.value(bindings)) if isinstance(part, Ref) and part.pick is Pick.SAME else part
