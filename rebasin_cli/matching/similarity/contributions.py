"""How the pieces of tensors contribute to the similarity matrices of a block."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import prod

from torch import Tensor

from rebasin_cli.matching.similarity.blocks import Block, Over, block_keys, selections
from rebasin_cli.permutation.gather import flat_places, owner_sides, piece_view
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
