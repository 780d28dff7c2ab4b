"""What was found of a network, before it has names: what every axis consists of, in dims that are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rebasin_cli.derivation.colouring import AxisOf
from rebasin_cli.derivation.expressions import (
    Chain,
    Expression,
    Moving,
    Nest,
    Still,
    chain,
    moves_in,
    parts_of,
    size_of,
)


@dataclass(frozen=True, slots=True)
class Wiring:
    """Which axes of which tensors move together.

    Attributes:
        shapes: of every tensor, in the order of the network; the keys of an index have `{e}` in their place.
        expressions: what every axis consists of.
        owners: dim → the dim of which every unit has a permutation of its own.
        indices: dim → the keys of its units: `layers.0.experts` is the dim of `layers.0.experts.{e}.…`.
        fixed: dims that stay, with dims within them.
    """

    shapes: Mapping[str, Sequence[int]]
    expressions: Mapping[AxisOf, Expression]
    owners: Mapping[int, int] = field(default_factory=dict)
    indices: Mapping[int, str] = field(default_factory=dict)
    fixed: frozenset[int] = frozenset()

    def dims(self) -> dict[int, set[str]]:
        """Every dim, and the tensors in which it stands."""
        found: dict[int, set[str]] = {}
        for (name, _), expression in self.expressions.items():
            for dim in moves_in(expression):
                found.setdefault(dim, set()).add(name)
        return found

    def sizes(self) -> dict[int, int]:
        """How many units every dim has."""
        return {
            part.move: part.size for e in self.expressions.values() for part in parts_of(e) if isinstance(part, Moving)
        }

    def pruned(self) -> Wiring:
        """The wiring without owners and indices of dims that stand nowhere."""
        there = self.dims()
        owners = {dim: owner for dim, owner in self.owners.items() if dim in there and owner in there}
        return replace(self, owners=owners, indices={dim: place for dim, place in self.indices.items() if dim in there})

    def with_axes(self, changed: Mapping[AxisOf, Expression]) -> Wiring:
        """The wiring with other axes."""
        return replace(self, expressions={**self.expressions, **changed})

    def without(self, dims: set[int]) -> Wiring:
        """The wiring in which these dims, and all that is within them, stay."""
        gone = set(dims)
        while more := {dim for dim, owner in self.owners.items() if owner in gone} - gone:
            gone |= more
        kept = {dim: owner for dim, owner in self.owners.items() if dim not in gone}
        indices = {dim: place for dim, place in self.indices.items() if dim not in gone}
        return replace(
            self,
            expressions={axis: _stilled(expression, gone) for axis, expression in self.expressions.items()},
            owners=kept,
            indices=indices,
        )

    def unsized(self) -> dict[int, int]:
        """The dims whose size no axis tells: of every product all factors but the last, unless they stand alone
        somewhere.
        """
        alone = {e.move for e in self.expressions.values() if isinstance(e, Moving)} | set(self.indices)
        sizes: dict[int, int] = {}
        for expression in self.expressions.values():
            for part in parts_of(expression):
                moving = [f for f in part.factors if moves_in(f)] if isinstance(part, Nest) else []
                sizes |= {f.move: f.size for f in moving[:-1] if isinstance(f, Moving) and f.move not in alone}
        return sizes


def _stilled(expression: Expression, dims: set[int]) -> Expression:
    if not set(moves_in(expression)) - dims:
        return Still(size_of(expression))
    if isinstance(expression, Nest):
        return Nest(tuple(_stilled(factor, dims) for factor in expression.factors))
    return chain([_stilled(part, dims) for part in expression.parts]) if isinstance(expression, Chain) else expression
