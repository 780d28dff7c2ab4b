"""Owners of a single unit taken out of a layout, so that what is within them is matched like any other dim.

A spec that knows grouped convolutions says `a within g` for ordinary ones, too, with one group. There is nothing to
choose in `g`, and a dim of its own has it better: its similarities are kept, mended and anchored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from rebasin_cli.permutation import Permutation
from rebasin_cli.spec import INDEX_SIDE, BoundTensor, Dim, Layout, Piece


def without_lone_owners(layout: Layout) -> Layout:
    """The same layout with every dim within the nearest owner that has more than one unit."""
    dims = {name: _freed(layout, dim) for name, dim in layout.dims.items()}
    if dims == layout.dims:
        return layout
    tensors = {key: _freed_tensor(layout, bound) for key, bound in layout.tensors.items()}
    return replace(layout, dims=dims, tensors=tensors)


def reshaped(permutation: Mapping[str, Tensor], layout: Layout) -> Permutation:
    """The same indices in the shapes that `layout` gives them."""
    return Permutation(
        {dim: perm.reshape(*layout.owner_sizes(dim), layout.dims[dim].size) for dim, perm in permutation.items()}
    )


def _freed(layout: Layout, dim: Dim) -> Dim:
    owner = dim.owner
    while owner is not None and layout.dims[owner].size == 1:
        owner = layout.dims[owner].owner
    return replace(dim, owner=owner)


def _freed_tensor(layout: Layout, bound: BoundTensor) -> BoundTensor:
    alone = bound.index_dim is not None and layout.dims[bound.index_dim].size == 1
    pieces = tuple(_freed_piece(piece, alone) for piece in bound.pieces)
    if alone:
        return replace(bound, pieces=pieces, index_dim=None, place=0, siblings=())
    return replace(bound, pieces=pieces)


def _freed_piece(piece: Piece, alone: bool) -> Piece:
    def owner(at: int) -> int | None:
        found = piece.sides[at].owner
        if found == INDEX_SIDE:
            return None if alone else INDEX_SIDE
        return owner(found) if found is not None and piece.sides[found].size == 1 else found

    return replace(piece, sides=tuple(replace(side, owner=owner(at)) for at, side in enumerate(piece.sides)))
