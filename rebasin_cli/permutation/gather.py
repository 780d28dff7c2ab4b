"""Permutations applied to tensors, piece by piece, whatever the element type."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from rebasin_cli.spec import INDEX_SIDE, BoundTensor, Layout, Piece

Read = Callable[[str], Tensor]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def piece_view(tensor: Tensor, piece: Piece) -> Tensor:
    """The piece of a contiguous tensor as a strided view, one axis a side."""
    return tensor.as_strided(
        [side.size for side in piece.sides],
        [side.stride for side in piece.sides],
        tensor.storage_offset() + piece.offset,
    )


def source_key(permutation: Mapping[str, Tensor], bound: BoundTensor) -> str:
    """The key of B whose tensor comes to stand under `bound.key` (they differ where a dim acts on keys)."""
    if bound.index_dim is None or bound.index_dim not in permutation:
        return bound.key
    return bound.siblings[int(permutation[bound.index_dim][bound.place])]


def gather_piece(
    view: Tensor, piece: Piece, permutation: Mapping[str, Tensor], place: int, *, skip: Collection[int] = ()
) -> Tensor:
    """Permute one piece.

    Args:
        view: the piece of B (of B's tensor at `source_key`); one axis a side.
        place: place of the tensor among its siblings, for dims within a dim that acts on keys.
        skip: positions of sides that stay as they are in B.

    Owners are gathered before what is within them, so that the inner permutation is indexed by A's place. Sides that
    lie one behind the other and move together (heads and what is inside of them) are gathered at once, by their places
    among all of them.
    """
    moving = [at for at, side in enumerate(piece.sides) if side.dim in permutation and at not in skip]
    for run in _runs(view, piece, moving):
        flat = torch.arange(prod(view.shape[at] for at in run)).reshape([view.shape[at] for at in run])
        places = _gather_sides(flat, _part(piece, run), range(len(run)), permutation, place).reshape(-1)
        shape = view.shape
        view = view.flatten(run[0], run[-1]).index_select(run[0], places.to(view.device)).reshape(shape)
        moving = [at for at in moving if at not in run]
    return _gather_sides(view, piece, moving, permutation, place)


def _gather_sides(
    view: Tensor, piece: Piece, moving: Iterable[int], permutation: Mapping[str, Tensor], place: int
) -> Tensor:
    """Gather one side after the other, owners first."""
    for at in sorted(moving, key=lambda at: len(owner_sides(piece, at))):
        dim = piece.sides[at].dim
        assert dim is not None
        perm = permutation[dim].to(view.device)
        owners = owner_sides(piece, at)
        if INDEX_SIDE in owners:
            perm = perm[place]
            owners = owners[1:]
        if not owners:
            view = view.index_select(at, perm)
            continue
        # The permutation's axes, in the order in which they stand in the piece, ones elsewhere.  # (.., owner, .., n)
        axes = [*owners, at]
        perm = perm.permute(sorted(range(len(axes)), key=lambda k: axes[k]))
        shape = [view.shape[k] if k in axes else 1 for k in range(view.dim())]
        view = torch.take_along_dim(view, perm.reshape(shape), dim=at)
    return view


def _runs(view: Tensor, piece: Piece, moving: Sequence[int]) -> list[tuple[int, ...]]:
    """Two or more moving sides next to each other that are one axis in memory, none with an owner elsewhere."""
    runs: list[list[int]] = []
    for at in moving:
        if runs and at == runs[-1][-1] + 1 and view.stride(at - 1) == view.stride(at) * view.shape[at]:
            runs[-1].append(at)
        else:
            runs.append([at])
    return [
        tuple(run)
        for run in runs
        if len(run) > 1 and all(owner in (*run, INDEX_SIDE) for at in run for owner in owner_sides(piece, at))
    ]


def _part(piece: Piece, run: tuple[int, ...]) -> Piece:
    """The piece made of some of its sides alone."""
    owners = {at: new for new, at in enumerate(run)} | {None: None, INDEX_SIDE: INDEX_SIDE}
    return Piece(0, tuple(replace(piece.sides[at], owner=owners[piece.sides[at].owner]) for at in run))


def permute_tensor(permutation: Mapping[str, Tensor], layout: Layout, key: str, read: Read) -> Tensor:
    """The tensor that stands under `key` after permuting B.

    Args:
        read: gives B's tensor of a key in its full shape, in any element type that torch can copy.

    Returns:
        A new tensor, or the one `read` gave where nothing in it moves.
    """
    bound = layout.tensors[key]
    source = read(source_key(permutation, bound)).contiguous()
    if not any(dim in permutation for dim in bound.dims() if dim != bound.index_dim):
        return source
    # As integers of the same width: torch cannot gather every element type, and copies of bits are exact.
    bits = source.view(_BITS[source.element_size()]) if source.element_size() in _BITS else source
    result = torch.empty_like(bits)
    for piece in bound.pieces:
        moved = gather_piece(piece_view(bits, piece), piece, permutation, bound.place)
        piece_view(result, piece).copy_(moved)
    return result.view(source.dtype)


class permuted(Mapping[str, Tensor]):  # noqa: N801  (reads as a verb: permuted(...)[key])
    """A lazy view of B's tensors with a permutation applied; each access reads and permutes anew."""

    def __init__(self, permutation: Mapping[str, Tensor], layout: Layout, source: Mapping[str, Tensor]) -> None:
        self._permutation = permutation
        self._layout = layout
        self._source = source

    def __getitem__(self, key: str) -> Tensor:
        return permute_tensor(self._permutation, self._layout, key, self._source.__getitem__)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


def owner_sides(piece: Piece, at: int) -> list[int]:
    """Positions of the sides that carry the owners of the side at `at`, outermost first."""
    owner = piece.sides[at].owner
    if owner is None:
        return []
    return [INDEX_SIDE] if owner == INDEX_SIDE else [*owner_sides(piece, owner), owner]
