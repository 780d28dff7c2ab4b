"""Permutations applied to tensors, piece by piece, whatever the element type."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.header import SIGN_BITS
from rebasin_cli.checkpoints.tensors import as_bytes, as_elements, tensor_bytes
from rebasin_cli.permutation.values import Permutation, Turn, taken, turned_where, units_of
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
    view: Tensor,
    piece: Piece,
    permutation: Mapping[str, Tensor],
    place: int,
    *,
    skip: Collection[int] = (),
    turn: Turn = torch.neg,
) -> Tensor:
    """Permute one piece.

    Args:
        view: the piece of B (of B's tensor at `source_key`); one axis a side.
        place: place of the tensor among its siblings, for dims within a dim that acts on keys.
        skip: positions of sides that stay as they are in B.
        turn: what turning a sign does to the elements of the view.

    Owners are gathered before what is within them, so that the inner permutation is indexed by A's place. Sides that
    lie one behind the other and move together (heads and what is inside of them) are gathered at once, by their places
    among all of them.
    """
    if view.dtype.itemsize == 1 and view.dtype.is_floating_point:  # torch cannot gather these everywhere
        turn_bits = _turn_bits(torch.uint8, None, view.dtype)
        bits = gather_piece(view.view(torch.uint8), piece, permutation, place, skip=skip, turn=turn_bits)
        return bits.view(view.dtype)
    moving = [at for at, side in enumerate(piece.sides) if side.dim in permutation and at not in skip]
    for run in _runs(view, piece, moving):
        places = flat_places(_part(piece, run), permutation, place)
        view = taken(view.flatten(run[0], run[-1]), run[0], places, turn).reshape(view.shape)
        moving = [at for at in moving if at not in run]
    return _gather_sides(view, piece, moving, permutation, place, turn)


def flat_places(frame: Piece, permutation: Mapping[str, Tensor], place: int) -> Tensor:
    """For every flat place of a row-major piece in A its place in B, signed; all of its sides are gathered."""
    first = frame.sides[0]
    alone = len(frame.sides) == 1 and first.owner is None and first.dim
    if alone and (perm := permutation.get(alone)) is not None:
        return units_of(perm) if first.still else perm
    flat = torch.arange(frame.elements).reshape([side.size for side in frame.sides])
    moving = [at for at, side in enumerate(frame.sides) if side.dim in permutation]
    return _gather_sides(flat, frame, moving, permutation, place, torch.bitwise_not).reshape(-1)


def _gather_sides(
    view: Tensor, piece: Piece, moving: Iterable[int], permutation: Mapping[str, Tensor], place: int, turn: Turn
) -> Tensor:
    """Gather one side after the other, owners first."""
    for at in sorted(moving, key=lambda at: len(owner_sides(piece, at))):
        dim = piece.sides[at].dim
        assert dim is not None
        perm = permutation[dim].to(view.device)
        if piece.sides[at].still:
            perm = units_of(perm)
        owners = owner_sides(piece, at)
        if INDEX_SIDE in owners:
            perm = perm[place]
            owners = owners[1:]
        if not owners:
            view = taken(view, at, perm, turn)
            continue
        # The permutation's axes, in the order in which they stand in the piece, ones elsewhere.  # (.., owner, .., n)
        axes = [*owners, at]
        perm = perm.permute(sorted(range(len(axes)), key=lambda k: axes[k]))
        shape = [view.shape[k] if k in axes else 1 for k in range(view.dim())]
        perm = perm.reshape(shape)
        view = turned_where(torch.take_along_dim(view, units_of(perm), dim=at), perm < 0, turn)
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


def permute_tensor(
    permutation: Mapping[str, Tensor], layout: Layout, key: str, read: Read, sign_bits: int | None = None
) -> Tensor:
    """The tensor that stands under `key` after permuting B.

    Args:
        read: gives B's tensor of a key in its full shape, in any element type that torch can copy.
        sign_bits: the bits of an element that hold its sign, where `read` gives bits; None for those of its type.

    Returns:
        A new tensor, or the one `read` gave where nothing in it moves.
    """
    bound = layout.tensors[key]
    source = read(source_key(permutation, bound)).contiguous()
    if isinstance(permutation, Permutation) and is_computed(bound, layout, permutation):
        moved = permute_tensor(permutation.without_scales(), layout, key, lambda _: source, sign_bits)
        if not permutation.has_maps:
            return scale_tensor(moved, bound, permutation.scales)
        from rebasin_cli.permutation.maps import map_tensor

        return map_tensor(moved, bound, layout, permutation, read)
    if not any(dim in permutation for dim in bound.dims() if dim != bound.index_dim):
        return source
    # As integers of the same width: torch cannot gather every element type, and copies of bits are exact.
    bits = source.view(_BITS[source.element_size()]) if source.element_size() in _BITS else source
    turn = torch.neg if bits is source and sign_bits is None else _turn_bits(bits.dtype, sign_bits, source.dtype)
    result = torch.empty_like(bits)
    for piece in bound.pieces:
        moved = gather_piece(piece_view(bits, piece), piece, permutation, bound.place, turn=turn)
        piece_view(result, piece).copy_(moved)
    return result.view(source.dtype)


def stored_elements(source: Checkpoint) -> Read:
    """Key → the elements of a tensor as they are stored, of types that torch lacks as well."""
    return lambda key: as_elements(source.read_raw(key), source.infos[key])


def exact_reader(permutation: Permutation, layout: Layout, source: Checkpoint) -> Read:
    """Key → the bytes of the permuted tensor; bit-exact where no unit is scaled or mapped, as no value is decoded."""
    elements = stored_elements(source)

    def read(key: str) -> Tensor:
        if not layout.tensors[key].pieces:
            return source.read_raw(key)
        info = source.infos[key]
        if is_computed(layout.tensors[key], layout, permutation):
            return tensor_bytes(permute_tensor(permutation, layout, key, source.__getitem__))
        return as_bytes(permute_tensor(permutation, layout, key, elements, SIGN_BITS.get(info.dtype)), info)

    return read


def _turn_bits(dtype: torch.dtype, sign_bits: int | None, meaning: torch.dtype) -> Turn:
    """Turns the signs of elements that are given as bits: exact for every value, zeros and NaN included."""
    width = 8 * dtype.itemsize
    if sign_bits is None:
        sign_bits = (1 << 63) + (1 << 31) if meaning.is_complex else 1 << width - 1
    if dtype != torch.uint8 and sign_bits >> width - 1:
        sign_bits -= 1 << width  # the same bits as a signed integer
    return partial(torch.bitwise_xor, other=torch.tensor(sign_bits, dtype=dtype))


class permuted(Mapping[str, Tensor]):  # noqa: N801  (reads as a verb: permuted(...)[key])
    """A lazy view of B's tensors with a permutation applied; each access reads and permutes the tensor again."""

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


def is_computed(bound: BoundTensor, layout: Layout, permutation: Permutation) -> bool:
    """Whether elements of a tensor are multiplied, and not moved and turned alone."""
    if permutation.has_maps:
        gain = layout.norms.get(bound.key)
        if gain is not None and layout.tensors[gain].name in permutation.gains:
            return True
        if any(side.dim in permutation.maps for piece in bound.pieces for side in piece.sides):
            return True
    return any(is_scaled(piece, permutation.scales) for piece in bound.pieces)


def is_scaled(piece: Piece, scales: Mapping[str, Tensor]) -> bool:
    """Whether scales act on a piece."""
    return any(side.power and side.dim in scales for side in piece.sides)


def factors(piece: Piece, scales: Mapping[str, Tensor], place: int) -> Iterator[Tensor]:
    """What a piece is multiplied by: for each scaled side a tensor of as many axes as the piece has, which broadcasts.

    Args:
        place: place of the tensor among its siblings, for dims within a dim that acts on keys.
    """
    for at, side in enumerate(piece.sides):
        if side.power and side.dim is not None and side.dim in scales:
            yield over_sides(scales[side.dim] ** side.power, piece, at, place)


def over_sides(values: Tensor, piece: Piece, at: int, place: int) -> Tensor:
    """Values (*owner sizes, n) of the units on the side at `at`, with an axis for each side, ones elsewhere."""
    owners = owner_sides(piece, at)
    if INDEX_SIDE in owners:
        values, owners = values[place], owners[1:]
    axes = [*owners, at]
    values = values.permute(sorted(range(len(axes)), key=lambda k: axes[k]))
    return values.reshape([side.size if k in axes else 1 for k, side in enumerate(piece.sides)])


def scale_tensor(tensor: Tensor, bound: BoundTensor, scales: Mapping[str, Tensor]) -> Tensor:
    """A tensor whose units are already in A's places, scaled; of its own type, and new."""
    return scale_wide(widened(tensor), bound, scales).to(tensor.dtype)


def widened(tensor: Tensor) -> Tensor:
    """A copy in float64, or complex128."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float64), copy=True).contiguous()


def scale_wide(wide: Tensor, bound: BoundTensor, scales: Mapping[str, Tensor]) -> Tensor:
    """A float64 tensor whose units are scaled, in place."""
    for piece in bound.pieces:
        view = piece_view(wide, piece)
        for factor in factors(piece, scales, bound.place):
            view *= factor.to(view.device)
    return wide
