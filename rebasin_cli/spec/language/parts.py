"""A spec as a part of another one: its keys under a prefix, its dims with a name in front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rebasin_cli.spec.language.pattern import Anonymous, Atom, DimName, Pattern
from rebasin_cli.spec.language.permutation_spec import (
    Line,
    NormRule,
    PermutationSpec,
    Requirement,
    RotationRule,
    Rule,
    ScaleRule,
    Shorthand,
    SignRule,
    SizeRule,
)
from rebasin_cli.spec.language.template import Template


@dataclass(frozen=True, slots=True)
class Part:
    """One entry of `parts`.

    Attributes:
        name: what its dims begin with; prefix: what its keys begin with.
        optional: whether a checkpoint may lack it as a whole.
        line: its line in the outer spec; faults of the part's own lines point there.
    """

    name: str
    spec: PermutationSpec
    prefix: str
    optional: bool
    line: int

    def lines(self) -> Iterator[Line]:
        """Its lines, under the prefix; those of an optional part are needed only if it is there."""
        for line in self.spec.lines:
            template, pattern = line.template.under(self.prefix), line.pattern and self._pattern(line.pattern)
            yield Line(template, pattern, line.section, self.line, self.prefix if self.optional else "")

    def rules(self) -> Iterator[Rule]:
        """Its rules of dims."""
        for rule in self.spec.rules:
            owner, same_as = (name and self._name(name) for name in (rule.owner, rule.same_as))
            index = (rule.index[0], rule.index[1].under(self.prefix)) if rule.index else None
            moved = replace(rule, name=self._name(rule.name), line=self.line, owner=owner, same_as=same_as, index=index)
            yield replace(moved, without=self._under(rule.without))

    def signs(self) -> Iterator[SignRule]:
        """Its dims with signs."""
        for rule in self.spec.signs:
            yield SignRule(self._name(rule.name), self.line, self._under(rule.without))

    def scales(self) -> Iterator[ScaleRule]:
        """Its dims with scales."""
        for rule in self.spec.scales:
            yield replace(rule, name=self._name(rule.name), line=self.line, without=self._under(rule.without))

    def rotations(self) -> Iterator[RotationRule]:
        """Its dims with maps."""
        for rule in self.spec.rotations:
            owner, without = rule.owner and self._name(rule.owner), self._under(rule.without)
            yield replace(rule, name=self._name(rule.name), line=self.line, owner=owner, without=without)

    def norms(self) -> Iterator[NormRule]:
        """Norms on its streams."""
        for norm in self.spec.norms:
            yield NormRule(norm.gain.under(self.prefix), self._under(norm.users), self.line)

    def sizes(self) -> Iterator[SizeRule]:
        """Its rules of sizes."""
        for size in self.spec.sizes:
            yield replace(size, name=self._name(size.name), line=self.line, part=self.name)

    def requires(self) -> Iterator[Requirement]:
        """What it asks of sizes."""
        for need in self.spec.requires:
            equal = self._name(need.equal) if need.equal else None
            yield replace(need, name=self._name(need.name), line=self.line, equal=equal)

    def shorthands(self) -> Iterator[Shorthand]:
        """Its shorthands."""
        for shorthand in self.spec.shorthands:
            pattern = self._pattern(shorthand.pattern)
            yield replace(shorthand, name=self._name(shorthand.name), pattern=pattern, line=self.line)

    def stays(self) -> Iterator[tuple[str, str]]:
        """What never moves in it, and why."""
        for what, why in self.spec.stays:
            yield f"{self.name}: {what}", why

    def _under(self, templates: Sequence[Template]) -> tuple[Template, ...]:
        return tuple(template.under(self.prefix) for template in templates)

    def _name(self, name: DimName) -> DimName:
        return replace(name, parts=(f"{self.name}/{name.parts[0]}", *name.parts[1:]))

    def _pattern(self, pattern: Pattern) -> Pattern:
        return pattern.replaced(self._atom)

    def _atom(self, atom: Atom) -> Sequence[Atom]:
        if isinstance(atom, DimName):
            return (self._name(atom),)
        size = f"{self.name}/{atom.size}" if isinstance(atom.size, str) else atom.size
        return (Anonymous(size, atom.turned and self._name(atom.turned)),)
