"""Linear maps of units applied to tensors: what writes to a dim is mapped by M, what reads it by the inverse of Mᵀ.

A stream under norms is mapped by orthogonal matrices, which are their own inverse transposed, so that writing and
reading are one. Between a norm and what reads it stand the norm's gains g, which a map does not pass: readers take them
up (W·diag(g)), are mapped, and are divided by the gains that the norm is given. A norm's bias is divided, mapped and
multiplied. Under LayerNorm the map keeps the vector of ones, and so all means.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_letters

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.permutation.gather import Read, owner_sides, permute_tensor, piece_view, scale_wide, widened
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import INDEX_SIDE, BoundTensor, Layout, Piece
from rebasin_cli.spec.binding.layout import STREAMS, MapKind
from rebasin_cli.spec.language.permutation_spec import PAIRS


def map_tensor(moved: Tensor, bound: BoundTensor, layout: Layout, permutation: Permutation, read: Read) -> Tensor:
    """A tensor whose units are already in A's places, mapped and scaled; of its own type, and new.

    Args:
        read: gives B's tensors by key: what reads a norm takes up the gains that B has.
    """
    gain_key = layout.norms.get(bound.key)
    given = permutation.gains.get(layout.tensors[gain_key].name) if gain_key is not None else None
    wide = widened(moved)
    if given is not None and bound.key == gain_key:
        return wide.copy_(given[1].reshape(wide.shape)).to(moved.dtype)
    contragredient = {
        dim: map_ if layout.dims[dim].rotated in STREAMS else torch.linalg.inv(map_).mT
        for dim, map_ in permutation.maps.items()
    }
    is_gain = bound.key == gain_key  # gains that stay are all alike: of a form in which they are taken up
    before = after = stream = None
    if given is not None and gain_key is not None:
        after, stream = given[1], layout.tensors[gain_key].pieces[0].sides[0].dim
        before = permute_tensor(permutation.without_scales(), layout, gain_key, read).double()
        if moved.dim() == 1:  # the norm's bias
            before, after = 1 / before, 1 / after
    for piece in () if is_gain else bound.pieces:
        view = piece_view(wide, piece)
        for at, side in enumerate(piece.sides):
            shape = [side.size if k == at else 1 for k in range(len(piece.sides))]
            if side.dim == stream and before is not None:
                view *= before.reshape(shape)
            if side.dim is not None and side.dim in permutation.maps:
                maps = permutation.maps if side.power >= 0 else contragredient
                view.copy_(mapped(view, piece, at, maps[side.dim], bound.place))
            if side.dim == stream and after is not None:
                view /= after.reshape(shape)
    wide = scale_wide(wide, bound, permutation.scales)
    found = wide.to(moved.dtype)
    if not bool(found.isfinite().all()) and bool(wide.isfinite().all()):
        raise ContentError(
            f"{bound.key}, rotated, has values that {str(moved.dtype).removeprefix('torch.')} does not hold",
            remedy="convert both checkpoints to float32 first, or leave rotations out",
        )
    return found


def mapped(view: Tensor, piece: Piece, at: int, map_: Tensor, place: int) -> Tensor:
    """A piece with matrices (*owner sizes, n, n) applied to the units on one of its sides."""
    owners = owner_sides(piece, at)
    if INDEX_SIDE in owners:
        map_, owners = map_[place], owners[1:]
    letters = ascii_letters[: view.dim()]
    new = ascii_letters[view.dim()]
    matrix = "".join(letters[k] for k in owners) + new + letters[at]
    return torch.einsum(f"{matrix},{letters}->{letters.replace(letters[at], new)}", map_.to(view), view)


def products(one: Tensor, two: Tensor, piece: Piece, at: int, place: int, total: Tensor) -> None:
    """Add Σ one[.., i, ..]·two[.., j, ..] over all sides of a piece but the units on one of them and their owners.

    Args:
        total: (*owner sizes, n, n), to which it is added.
    """
    owners = owner_sides(piece, at)
    if INDEX_SIDE in owners:
        total, owners = total[place], owners[1:]
    letters = ascii_letters[: one.dim()]
    new = ascii_letters[one.dim()]
    out = "".join(letters[k] for k in owners) + letters[at] + new
    total += torch.einsum(f"{letters},{letters.replace(letters[at], new)}->{out}", one, two)


def check_gains(layout: Layout, read: Read, where: str) -> None:
    """Refuse norms on rotated streams with gains that nothing can be divided by.

    Raises:
        ContentError: naming one.
    """
    for key in layout.gains().values():
        if not bool((read(key) != 0).all()):
            stream = layout.tensors[key].pieces[0].sides[0].dim
            raise ContentError(
                f"{key} has gains of 0, and a rotation would have to divide by them",
                where=where,
                remedy=f"keep the stream in place with --freeze {stream}, or leave rotations out",
            )


def random_maps(layout: Layout, generator: torch.Generator) -> dict[str, Tensor]:
    """A map of each rotated dim of its kind; those inside heads stretch by ½ to 2."""
    found = {}
    for dim in layout.rotated():
        kind, n = layout.dims[dim].rotated, layout.dims[dim].size
        shape = (*layout.owner_sizes(dim), n, n)
        turn = nearest_map(torch.randn(shape, generator=generator, dtype=torch.float64), kind)
        if kind == "invertible":
            stretch = 2 ** (2 * torch.rand(shape[:-1], generator=generator, dtype=torch.float64) - 1)
            other = nearest_map(torch.randn(shape, generator=generator, dtype=torch.float64), kind)
            turn = turn * stretch[..., None, :] @ other
        elif kind not in STREAMS:
            shape = (*shape[:-2], n // 2)
            stretch = 2 ** (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)
            turn = of_pairs(in_pairs(turn, kind) * stretch, kind)
        found[dim] = turn
    return found


def random_gains(layout: Layout, generator: torch.Generator) -> dict[str, Tensor]:
    """Other gains (½ to 2) of each norm that a map has to pass; those before are not known here, and said to be 1."""
    found = {}
    for name, key in layout.gains().items():
        n = sum(piece.elements for piece in layout.tensors[key].pieces)
        given = 2 ** (2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1)
        found[name] = torch.stack([torch.ones_like(given), given])
    return found


def nearest_map(matrix: Tensor, kind: MapKind) -> Tensor:
    """The orthogonal matrices Q (.., n, n) of a kind with the largest ⟨Q, matrix⟩."""
    found: Tensor
    if kind in PAIRS:
        scalars = in_pairs(matrix, kind)
        return of_pairs(torch.where(scalars == 0, 1, scalars.sgn()), kind)
    if kind != "keeps ones":
        u, _, v = torch.linalg.svd(matrix)
        found = u @ v
        return found
    n = matrix.shape[-1]
    ones = torch.ones(n, 1, dtype=matrix.dtype) / n**0.5
    basis = torch.linalg.qr(torch.cat([ones, torch.eye(n, n - 1, dtype=matrix.dtype)], 1)).Q[:, 1:]
    found = basis @ nearest_map(basis.mT @ matrix @ basis, "orthogonal") @ basis.mT + ones @ ones.mT
    return found


def in_pairs(matrix: Tensor, kind: MapKind) -> Tensor:
    """Matrices (.., n, n) as complex scalars (.., n/2) of the pairs of units, all else left out: [[x, −y], [y, x]] of a
    pair is x + iy."""
    one, two = _pairs(matrix.shape[-1], kind)
    real = (matrix[..., one, one] + matrix[..., two, two]) / 2
    return torch.complex(real, (matrix[..., two, one] - matrix[..., one, two]) / 2)


def of_pairs(scalars: Tensor, kind: MapKind) -> Tensor:
    """The matrices of complex scalars of pairs."""
    n = 2 * scalars.shape[-1]
    one, two = _pairs(n, kind)
    found = torch.zeros(*scalars.shape[:-1], n, n, dtype=scalars.real.dtype)
    found[..., one, one] = found[..., two, two] = scalars.real
    found[..., two, one], found[..., one, two] = scalars.imag, -scalars.imag
    return found


def _pairs(n: int, kind: MapKind) -> tuple[Tensor, Tensor]:
    """The units of each pair, the first and the second ones."""
    units = torch.arange(n)
    return (units[: n // 2], units[n // 2 :]) if kind == "halves" else (units[::2], units[1::2])


def wrong_map(layout: Layout, maps: Mapping[str, Tensor], tolerance: float = 1e-6) -> str:
    """The first dim whose matrices are not of its kind; empty if all are."""
    for dim, map_ in maps.items():
        kind, eye = layout.dims[dim].rotated, torch.eye(map_.shape[-1], dtype=map_.dtype)
        if kind in STREAMS and not bool(((map_ @ map_.mT - eye).abs() < tolerance).all()):
            return dim
        if kind in PAIRS and not bool(((of_pairs(in_pairs(map_, kind), kind) - map_).abs() < tolerance).all()):
            return dim
        if kind == "keeps ones" and not bool(((map_.sum(-1) - 1).abs() < tolerance).all()):
            return dim
    return ""
