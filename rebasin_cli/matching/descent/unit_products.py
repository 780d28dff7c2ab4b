"""Products of units with units, in float64, as settling needs them: of a few units, by a part of them first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rebasin_cli.permutation.gather import owner_sides
from rebasin_cli.spec import Layout, Piece

FEW = 64
"""Places along another side that are looked at before all of them are."""

AT_ONCE = 1 << 20
"""Products that are summed at a time, in float64."""


def sides_within(piece: Piece, at: int) -> tuple[list[int], list[int]]:
    """Positions of a side and of those within its units, and of all others."""
    ours = [side for side in range(len(piece.sides)) if side == at or at in owner_sides(piece, side)]
    return ours, [side for side in range(len(piece.sides)) if side not in ours]


def long_axis(layout: Layout, piece: Piece, at: int) -> int | None:
    """The longest other axis that can be looked at in part, if it is long."""
    alone = [
        axis
        for axis, side in enumerate(piece.sides)
        if axis != at
        and side.size > FEW
        and side.owner is None
        and not any(axis in owner_sides(piece, other) for other in range(len(piece.sides)))
    ]
    return max(alone, key=lambda axis: piece.sides[axis].size, default=None)


def narrowed(one: Tensor, two: Tensor, axis: int, perm: Tensor | None) -> tuple[Tensor, Tensor]:
    """The first places of A along an axis, and what of B comes to stand there."""
    there = two.narrow(axis, 0, FEW) if perm is None else two.index_select(axis, perm[:FEW])
    return one.narrow(axis, 0, FEW), there


def unit_differences(view: Tensor, at: int, places: Tensor, others: Tensor) -> Tensor:
    """Units minus units, in float64."""
    return view.index_select(at, places).double() - view.index_select(at, others).double()


def taken_inside(perm: Tensor, places: Tensor) -> Tensor:
    """What is within a dim, (batch, n, ..), with place i getting what was at places[i]; places (batch, n)."""
    return perm.gather(1, places.reshape(*places.shape, *(1,) * (perm.dim() - 2)).expand(perm.shape))


def products_over_rest(one: Tensor, two: Tensor, kept: Sequence[int]) -> Tensor:
    """Σ one · two over all axes but some, in float64; their order is that of the result's axes."""
    rest = [axis for axis in range(one.dim()) if axis not in kept]
    shape = [one.shape[axis] for axis in kept]
    units = torch.Size(shape).numel()
    one, two = (view.permute(*kept, *rest).reshape(units, -1) for view in (one, two))  # (units, rest)
    rows = max(1, AT_ONCE // max(1, one.shape[1]))
    parts = [(one[i : i + rows].double() * two[i : i + rows].double()).sum(1) for i in range(0, units, rows)]
    return torch.cat(parts).reshape(shape)
