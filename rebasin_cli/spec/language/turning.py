"""Sides that a rotary embedding turns, as dims: where rotations are asked for they have a name, and never move."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from rebasin_cli.spec.language.expressions import parse_expression
from rebasin_cli.spec.language.pattern import Anonymous, Atom, Segment
from rebasin_cli.spec.language.permutation_spec import PermutationSpec, Rule, SizeRule

WHY = "the rotary embedding turns its units in pairs"


@lru_cache(maxsize=512)
def with_turned(spec: PermutationSpec) -> PermutationSpec:
    """The spec in which sides with a name for rotations are dims that stay; itself where there are none."""
    sizes = {
        atom.turned: atom.size for ln in spec.lines if ln.pattern for atom in ln.pattern.anonymous() if atom.turned
    }
    if not sizes:
        return spec

    def named(atom: Atom) -> Iterable[Segment]:
        return (atom.turned or atom,) if isinstance(atom, Anonymous) else (atom,)

    turning = [rule for rule in spec.rotations if rule.pairs]
    size_of = {str(name): str(size).rpartition("/") for name, size in sizes.items()}  # `part/size`
    return replace(
        spec,
        lines=tuple(replace(ln, pattern=ln.pattern.replaced(named)) if ln.pattern else ln for ln in spec.lines),
        rules=(*spec.rules, *(Rule(rule.name, rule.line, owner=rule.owner, fixed=WHY) for rule in turning)),
        sizes=(
            *spec.sizes,
            *(
                SizeRule(rule.name, (parse_expression(size),), rule.line, part)
                for rule in turning
                for part, _, size in [size_of[str(rule.name)]]
            ),
        ),
    )
