"""How the pieces of tensors contribute to the similarity matrices of a block, cut into products that fit a cache."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from rebasin_cli.matching.similarity.blocks import Block, Over, block_keys, selections
from rebasin_cli.permutation.gather import flat_places, owner_sides, piece_view
from rebasin_cli.permutation.values import turned_where, units_of
from rebasin_cli.spec import INDEX_SIDE, BoundTensor, Layout, Piece, Side


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How one piece contributes: the sides to solve for, the sides that move with other dims, and the rest.

    Attributes:
        number: which of the tensor's pieces it is.
        units: positions of the block's own sides, owners first: rows and columns of the matrix run over their product.
        others: positions of the sides that move with other dims, and of their owners, in order.
        frame: the piece made of `others` alone, row-major: what gathers their flat places.
        neighbours: the other dims that it depends on.
        work: multiply-adds for each entry of the matrix.
        over: the dims of `units`: plans of the same add up to one matrix.
    """

    bound: BoundTensor
    number: int
    units: tuple[int, ...]
    others: tuple[int, ...]
    frame: Piece
    neighbours: tuple[str, ...]
    work: int
    over: Over

    @property
    def piece(self) -> Piece:
        """The piece itself."""
        return self.bound.pieces[self.number]

    @property
    def solved(self) -> int:
        """Position of the side of a block of one dim."""
        return self.units[0]

    @property
    def dims(self) -> tuple[str, ...]:
        """The dims of `units`."""
        return self.over.dims

    @property
    def size(self) -> int:
        """Rows of the matrix."""
        return prod(self.piece.sides[at].size for at in self.units)

    def operand(self, tensor: Tensor) -> Tensor:
        """The tensor's piece, shape (n, places of `others`, rest): a view where the strides allow it."""
        view = piece_view(tensor.contiguous(), self.piece)
        rest = [at for at in range(view.dim()) if at not in self.units and at not in self.others]
        places = prod(self.piece.sides[at].size for at in self.others)
        return view.permute(*self.units, *self.others, *rest).reshape(self.size, places, -1)

    def places(self, permutation: Mapping[str, Tensor]) -> Tensor | None:
        """For every flat place of `others` in A, its place in B, signed; None if there are none."""
        return flat_places(self.frame, permutation, self.bound.place) if self.others else None


def permutes_keys(layout: Layout, block: Block) -> bool:
    """Whether a dim of the block acts on the keys of tensors (experts): those are no pieces with sides of their own."""
    return any(layout.tensors[key].index_dim in block.dims for dim in block.dims for key in layout.users[dim])


def plans_of(layout: Layout, block: Block, moving: Collection[str]) -> list[Plan]:
    """The plans of a block, one for each way in which a piece is linear in it (see `selections`)."""
    plans: list[Plan] = []
    for key in block_keys(layout, block):
        bound = layout.tensors[key]
        for number, piece in enumerate(bound.pieces):
            for units, _ in selections(piece, block):
                others = _moving_sides(piece, units, moving)
                dims = [str(piece.sides[at].dim) for at in others]
                neighbours = (*dims, bound.index_dim) if bound.index_dim else tuple(dims)
                work = prod(side.size for at, side in enumerate(piece.sides) if at not in units)
                over = Over.of(layout, piece, units)
                plans.append(Plan(bound, number, units, others, _frame(piece, others), neighbours, work, over))
    return plans


def _moving_sides(piece: Piece, units: tuple[int, ...], moving: Collection[str]) -> tuple[int, ...]:
    """Sides of other moving dims, and of their owners, whose units say which inner permutation holds."""
    found = {at for at, side in enumerate(piece.sides) if at not in units and side.dim in moving}
    found |= {owner for at in found for owner in owner_sides(piece, at) if owner != INDEX_SIDE}
    return tuple(sorted(found))


def _frame(piece: Piece, others: tuple[int, ...]) -> Piece:
    sides: list[Side] = []
    stride = prod(piece.sides[at].size for at in others)
    for at in others:
        side = piece.sides[at]
        stride //= side.size
        owner = side.owner
        if owner is not None and owner != INDEX_SIDE:
            owner = others.index(owner)
        sides.append(replace(side, stride=stride, owner=owner))
    return Piece(0, tuple(sides))


CACHED = 1 << 20
"""Elements of an operand worked on at a time, so that what was gathered is still in a cache when it is multiplied."""


def chunks(
    x: Tensor, y: Tensor, at: Tensor | None, to: Tensor | None, dtype: torch.dtype, *, less: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Two operands (n, places, rest) in parts (n, k), whose products with one another add up.

    A part is a run of places, or of the rest where it is all in one place. It fits a cache, but has not too few
    columns, for each product passes over n² sums.

    Args:
        at, to: places of x, and the places of y that go with them, signed; None for all as they are.
        less: places of y that are taken off those at `to`.
    """
    n, places, rest = x.shape
    columns = max(CACHED // n, n // 4, 512)
    if places == 1 and to is None:
        for start in range(0, rest, columns):
            cut = slice(start, start + columns)
            yield flat(x[:, :, cut], dtype), flat(y[:, :, cut], dtype)
        return
    length, step = places if at is None else len(at), max(1, columns // rest)
    for cut in (slice(start, min(start + step, length)) for start in range(0, length, step)):
        two = _taken(y, to, cut, dtype)
        yield _taken(x, at, cut, dtype), two if less is None else two - _taken(y, less, cut, dtype)


def flat(operand: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, places, rest) as a matrix (n, places · rest)."""
    return operand.to(dtype).flatten(1)


def _taken(operand: Tensor, places: Tensor | None, cut: slice, dtype: torch.dtype) -> Tensor:
    """Part of the operand's places as a matrix, copied in the order in which they lie in memory."""
    if places is None:
        return flat(operand[:, cut], dtype)
    units, turned = units_of(places[cut]), (places[cut] < 0)[:, None]
    if operand.stride(1) > operand.stride(0):
        chosen = operand.transpose(0, 1).index_select(0, units).transpose(0, 1)
    else:
        chosen = operand.index_select(1, units)
    return turned_where(chosen.to(dtype), turned, torch.neg).flatten(1)
