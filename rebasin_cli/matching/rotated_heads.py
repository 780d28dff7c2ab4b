"""Heads inside of which linear maps act: which head of B goes to which of A, and how it is rotated there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.solve import solve_assignment
from rebasin_cli.permutation.gather import piece_view
from rebasin_cli.permutation.maps import nearest_map
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout
from rebasin_cli.spec.binding.layout import MapKind

State = Mapping[str, Tensor]
ROUNDS = 4
"""Of a pair of heads in which query heads are assigned, too: these and the rotation in turn."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece in which heads stand, of A and of B, heads first; `sides`: the dims on the others, in order."""

    a: Tensor
    b: Tensor
    sides: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    """How a head of B is put in the place of one of A: what that is worth, rotations and orders inside."""

    value: float
    maps: Mapping[str, Tensor]
    orders: Mapping[str, Tensor]


def match_heads(layout: Layout, a: State, b: State, root: str) -> Permutation:
    """The heads of B in the order, and with the rotations inside, that are best with all else held."""
    inside = layout.children(root)
    if layout.dims[root].rotated:  # a single head: nothing to assign
        pair = _best(_parts(layout, a, b, root, single=True), {root: layout.dims[root].rotated}, ())
        return Permutation({}, {}, dict(pair.maps))
    rotated = {dim: layout.dims[dim].rotated for dim in layout.rotated() if dim in inside}
    ordered = tuple(dim for dim in layout.moving() if dim in inside and dim not in rotated)
    parts = _parts(layout, a, b, root)
    heads = layout.dims[root].size
    pairs = [[_best(_of_pair(parts, j, k), rotated, ordered) for k in range(heads)] for j in range(heads)]
    values = torch.tensor([[pair.value for pair in row] for row in pairs], dtype=torch.float64)
    order = _assigned(values) if layout.dims[root].fixed is None else torch.arange(heads)
    chosen = [pairs[j][int(k)] for j, k in enumerate(order)]
    return Permutation(
        {root: order, **{dim: torch.stack([pair.orders[dim] for pair in chosen]) for dim in ordered}},
        {},
        {dim: torch.stack([pair.maps[dim] for pair in chosen]) for dim in rotated},
    )


def _parts(layout: Layout, a: State, b: State, root: str, *, single: bool = False) -> list[_Part]:
    """Every piece in which the heads stand; `single`: their one head is a dim by itself."""
    found = []
    for key in layout.users[root]:
        bound = layout.tensors[key]
        for piece in bound.pieces if bound.section == "tensors" else ():
            at = next((at for at, side in enumerate(piece.sides) if side.dim == root), None)
            if at is None:
                continue
            one, two = (piece_view(state[key].contiguous(), piece) for state in (a, b))
            dims = tuple(side.dim for side in piece.sides)
            if single:
                found.append(_Part(one, two, dims))
            else:
                found.append(_Part(one.movedim(at, 0), two.movedim(at, 0), _without(dims, at)))
    return found


def _without(dims: tuple[str | None, ...], at: int) -> tuple[str | None, ...]:
    return (*dims[:at], *dims[at + 1 :])


def _of_pair(parts: list[_Part], j: int, k: int) -> list[_Part]:
    return [_Part(part.a[j], part.b[k], part.sides) for part in parts]


def _best(parts: list[_Part], rotated: Mapping[str, MapKind], ordered: tuple[str, ...]) -> _Pair:
    """The best rotations and orders inside one pair of heads, each in its turn, from two starts where both are there:
    the present order, and the one with the rotations that pieces without orders tell."""
    plain = _descended(parts, rotated, ordered)
    if not ordered or not rotated:
        return plain
    told = _descended([part for part in parts if not set(part.sides) & set(ordered)], rotated, ()).maps
    orders: dict[str, Tensor | None] = dict.fromkeys(ordered)
    for dim in ordered:
        orders[dim] = _assigned(_products(parts, dim, told, orders))
    other = _descended(parts, rotated, ordered, orders)
    return max(plain, other, key=lambda pair: pair.value)


def _descended(
    parts: list[_Part],
    rotated: Mapping[str, MapKind],
    ordered: tuple[str, ...],
    orders: Mapping[str, Tensor | None] | None = None,
) -> _Pair:
    found = {dim: order for dim, order in (orders or {}).items() if order is not None}
    found = found or {dim: torch.arange(_size(parts, dim)) for dim in ordered}
    maps = {dim: torch.eye(_size(parts, dim), dtype=torch.float64) for dim in rotated if _stands(parts, dim)}
    for _ in range(ROUNDS if ordered and rotated else 1):
        for dim in maps:
            maps[dim] = nearest_map(_products(parts, dim, {**maps, dim: None}, found), rotated[dim])
        for dim in ordered:
            found[dim] = _assigned(_products(parts, dim, maps, {**found, dim: None}))
    value = sum(float((part.a * _moved(part, maps, found)).sum()) for part in parts)
    return _Pair(value, maps, found)


def _stands(parts: list[_Part], dim: str) -> bool:
    return any(dim in part.sides for part in parts)


def _size(parts: list[_Part], dim: str) -> int:
    return next(part.a.shape[part.sides.index(dim)] for part in parts if dim in part.sides)


def _products(
    parts: list[_Part], dim: str, maps: Mapping[str, Tensor | None], orders: Mapping[str, Tensor | None]
) -> Tensor:
    """Σ A[.., i, ..]·B[.., j, ..] of the units of a dim, the others inside the heads as they are at present."""
    total = torch.zeros(_size(parts, dim), _size(parts, dim), dtype=torch.float64)
    for part in parts:
        if dim in part.sides:
            at, moved = part.sides.index(dim), _moved(part, maps, orders)
            n = part.a.shape[at]
            total += part.a.movedim(at, 0).reshape(n, -1) @ moved.movedim(at, 0).reshape(n, -1).T
    return total


def _moved(part: _Part, maps: Mapping[str, Tensor | None], orders: Mapping[str, Tensor | None]) -> Tensor:
    view = part.b
    for at, dim in enumerate(part.sides):
        if dim is None:
            continue
        order, map_ = orders.get(dim), maps.get(dim)
        if order is not None:
            view = view.index_select(at, order)
        if map_ is not None:
            view = torch.tensordot(map_, view, dims=([1], [at])).movedim(0, at)
    return view


def _assigned(values: Tensor) -> Tensor:
    return torch.from_numpy(solve_assignment(values).columns)
