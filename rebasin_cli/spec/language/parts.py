"""The `parts` section: a checkpoint that holds several networks, each under a prefix and with a spec of its own.

A part's dims and sizes get its name in front (`unet/head.0`), so that parts cannot refer to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rebasin_cli.spec.language.pattern import Anonymous, Atom, DimName, Pattern
from rebasin_cli.spec.language.permutation_spec import Line, PermutationSpec, Rule, Shorthand, SignRule, SizeRule


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
            yield Line(
                template=line.template.under(self.prefix),
                pattern=self._pattern(line.pattern) if line.pattern else None,
                section=line.section,
                line=self.line,
                needed_with=self.prefix if self.optional else "",
            )

    def rules(self) -> Iterator[Rule]:
        """Its rules of dims."""
        for rule in self.spec.rules:
            yield replace(
                rule,
                name=self._name(rule.name),
                line=self.line,
                owner=self._name(rule.owner) if rule.owner else None,
                same_as=self._name(rule.same_as) if rule.same_as else None,
                index=(rule.index[0], rule.index[1].under(self.prefix)) if rule.index else None,
                without=tuple(template.under(self.prefix) for template in rule.without),
            )

    def signs(self) -> Iterator[SignRule]:
        """Its dims with signs."""
        for rule in self.spec.signs:
            without = tuple(template.under(self.prefix) for template in rule.without)
            yield SignRule(self._name(rule.name), self.line, without)

    def sizes(self) -> Iterator[SizeRule]:
        """Its rules of sizes."""
        for size in self.spec.sizes:
            yield replace(size, name=self._name(size.name), line=self.line, part=self.name)

    def shorthands(self) -> Iterator[Shorthand]:
        """Its shorthands."""
        for shorthand in self.spec.shorthands:
            pattern = self._pattern(shorthand.pattern)
            yield replace(shorthand, name=self._name(shorthand.name), pattern=pattern, line=self.line)

    def stays(self) -> Iterator[tuple[str, str]]:
        """What never moves in it, and why."""
        for what, why in self.spec.stays:
            yield f"{self.name}: {what}", why

    def _name(self, name: DimName) -> DimName:
        return replace(name, parts=(f"{self.name}/{name.parts[0]}", *name.parts[1:]))

    def _pattern(self, pattern: Pattern) -> Pattern:
        return pattern.replaced(self._atom)

    def _atom(self, atom: Atom) -> Sequence[Atom]:
        if isinstance(atom, DimName):
            return (self._name(atom),)
        return (Anonymous(f"{self.name}/{atom.size}") if isinstance(atom.size, str) else atom,)
