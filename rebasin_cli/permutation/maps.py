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
        dim: map_ if layout.dims[dim].rotated != "invertible" else torch.linalg.inv(map_).mT
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
    """A map of each rotated dim of its kind; invertible ones stretch by ½ to 2."""
    found = {}
    for dim in layout.rotated():
        n, kind = layout.dims[dim].size, layout.dims[dim].rotated
        shape = (*layout.owner_sizes(dim), n, n)
        turn = orthogonal_near(torch.randn(shape, generator=generator, dtype=torch.float64), kind == "keeps ones")
        if kind == "invertible":
            stretch = 2 ** (2 * torch.rand(shape[:-1], generator=generator, dtype=torch.float64) - 1)
            other = orthogonal_near(torch.randn(shape, generator=generator, dtype=torch.float64))
            turn = turn * stretch[..., None, :] @ other
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


def orthogonal_near(matrix: Tensor, keeps_ones: bool = False) -> Tensor:
    """The orthogonal matrices Q (.., n, n) with the largest ⟨Q, matrix⟩, of all or of those that keep the vector of
    ones."""
    found: Tensor
    if not keeps_ones:
        u, _, v = torch.linalg.svd(matrix)
        found = u @ v
        return found
    n = matrix.shape[-1]
    ones = torch.ones(n, 1, dtype=matrix.dtype) / n**0.5
    basis = torch.linalg.qr(torch.cat([ones, torch.eye(n, n - 1, dtype=matrix.dtype)], 1)).Q[:, 1:]
    found = basis @ orthogonal_near(basis.mT @ matrix @ basis) @ basis.mT + ones @ ones.mT
    return found


def wrong_map(layout: Layout, maps: Mapping[str, Tensor], tolerance: float = 1e-6) -> str:
    """The first dim whose matrices are not of its kind; empty if all are."""
    for dim, map_ in maps.items():
        kind, eye = layout.dims[dim].rotated, torch.eye(map_.shape[-1], dtype=map_.dtype)
        if kind != "invertible" and not bool(((map_ @ map_.mT - eye).abs() < tolerance).all()):
            return dim
        if kind == "keeps ones" and not bool(((map_.sum(-1) - 1).abs() < tolerance).all()):
            return dim
    return ""
