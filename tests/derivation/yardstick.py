"""Two layouts of one network as groups: what of the one is in the other, whatever their dims and tensors are called.

An entry of a tensor is known by its value, so that the tensors of a file and those of a module in memory need not be
cut in the same way. An element of a group says of every entry which one comes to stand in its place. Another layout has
the element if permutations of its dims can be read off that do the same to every entry.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.permutation.gather import owner_sides, permute_tensor, piece_view
from rebasin_cli.permutation.values import Permutation, is_identity
from rebasin_cli.spec import INDEX_SIDE
from rebasin_cli.spec.binding.layout import Layout, Piece

ELEMENTS = 3
"""Random elements of a dim: a wrong one survives each with a probability of a half at most."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Dims of a shipped layout, and what a derived one says of them.

    Attributes:
        equal, finer: all of the dim is in the derived group, which allows more of it where it is finer.
        coarser: a part of it is there; missing: nothing of it.
        more: dims of the derived layout of which the shipped one has nothing.
        orders: natural logarithms of the orders of both groups.
    """

    equal: tuple[str, ...]
    finer: tuple[str, ...]
    coarser: tuple[str, ...]
    missing: tuple[str, ...]
    more: tuple[str, ...]
    orders: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A layout on tensors of which every entry is the number of its value.

    Attributes:
        ids: of the entries, by key; count: of all numbers.
    """

    layout: Layout
    ids: Mapping[str, Tensor]
    count: int

    def element(self, permutation: Permutation) -> Tensor:
        """For every entry the one that comes to stand in its place; shape (count,)."""
        source = torch.arange(self.count)
        for key in sorted({key for dim in permutation for key in self.layout.users[dim]} & self.ids.keys()):
            moved = permute_tensor(permutation, self.layout, key, self.ids.__getitem__)
            source[self.ids[key].reshape(-1)] = moved.reshape(-1)
        return source

    def read(self, element: Tensor) -> Permutation | None:
        """The permutation of the dims that does this; None if there is none."""
        moved = element != torch.arange(self.count)
        moving = {key for key, ids in self.ids.items() if bool(moved[ids].any())}
        found: dict[str, Tensor] = {}
        for dim in self.layout.moving():
            if moving.isdisjoint(self.layout.users[dim]):
                continue
            perm = self._dim(dim, element)
            if perm is None:
                return None
            if not is_identity(perm):
                found[dim] = perm
        permutation = Permutation(found)
        return permutation if torch.equal(self.element(permutation), element) else None

    def _dim(self, dim: str, element: Tensor) -> Tensor | None:
        """The permutation of one dim, read where all but its owners is at index 0; None if that is none."""
        shape = (*self.layout.owner_sizes(dim), self.layout.dims[dim].size)
        perm = torch.full(shape, -1)
        for key in (key for key in self.layout.users[dim] if key in self.ids):
            bound = self.layout.tensors[key]
            if bound.index_dim == dim:
                firsts = [int(self.ids[sibling].reshape(-1)[0]) for sibling in bound.siblings]
                perm = torch.tensor([self._place(bound.siblings, int(element[first])) for first in firsts])
                break
            for piece in bound.pieces:
                at = next((n for n, side in enumerate(piece.sides) if side.dim == dim), None)
                if at is not None:
                    units = self._units(key, piece, at, element)
                    if INDEX_SIDE in owner_sides(piece, at):
                        perm[bound.place] = units.reshape(shape[1:])
                    else:
                        perm = units.reshape(shape)
                    break
            if bool((perm >= 0).all()):
                break
        ordered = perm.sort(-1).values
        return perm if torch.equal(ordered, torch.arange(shape[-1]).expand(shape)) else None

    def _place(self, keys: Sequence[str], entry: int) -> int:
        """Which of some tensors has an entry; -1 for none."""
        return next((place for place, key in enumerate(keys) if bool((self.ids[key] == entry).any())), -1)

    def _units(self, key: str, piece: Piece, at: int, element: Tensor) -> Tensor:
        """Along one side of a piece (and those of its owners) the unit that each comes from; -1 where from outside."""
        entries = element[_edge(piece_view(self.ids[key].contiguous(), piece), piece, at)]
        keys = self.layout.tensors[key].siblings or (key,)
        source = self.ids[keys[max(0, self._place(keys, int(entries.flatten()[0])))]].contiguous()
        along = torch.arange(piece.sides[at].size).reshape([-1 if n == at else 1 for n in range(len(piece.sides))])
        units = torch.full((self.count,), -1)
        view = piece_view(source, piece)
        units[view] = along.expand(view.shape)
        return units[entries]


def _edge(view: Tensor, piece: Piece, at: int) -> Tensor:
    """The entries at index 0 of all sides but one and its owners, owners outermost."""
    kept = [*(side for side in owner_sides(piece, at) if side != INDEX_SIDE), at]
    for side in reversed(range(view.dim())):
        if side not in kept:
            view = view.select(side, 0)
    order = sorted(kept)
    return view.permute([order.index(side) for side in kept])


def groups(*sides: tuple[Layout, Mapping[str, Tensor]], unread: Collection[str] = ()) -> Iterator[Group]:
    """Layouts with the states that they are bound to, which hold the same values.

    Args:
        unread: keys of the last state: the outputs do not depend on these tensors, so that any order of them is right.
    """
    states = _told_apart([state for _, state in sides])
    values = [tensor.double().reshape(-1) for state in states for tensor in state.values()]
    ids = torch.unique(torch.cat(values), return_inverse=True)[1]
    parts = iter(ids.split([len(part) for part in values]))
    numbered = [{key: next(parts).reshape(tensor.shape) for key, tensor in state.items()} for state in states]
    aside = {int(found) for key in unread for found in numbered[-1][key].reshape(-1)}
    for (layout, _), state in zip(sides, numbered, strict=True):
        read = {key: found for key, found in state.items() if not aside.issuperset(found.reshape(-1).tolist())}
        yield Group(layout, read, int(ids.max()) + 1)


def _told_apart(states: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The states with a number of its own for every entry of a table that repeats values, by its key."""
    made, start = [dict(state) for state in states], 1e9
    for key, tensor in states[0].items():
        repeats = tensor.unique().numel() < tensor.numel()
        if repeats and all(key in state and torch.equal(state[key], tensor) for state in states):
            numbers = start + torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
            start += tensor.numel()
            for state in made:
                state[key] = numbers
    return made


def elements(layout: Layout, dim: str) -> Iterator[Permutation]:
    """Random permutations of one dim alone, none at identity."""
    for seed in range(ELEMENTS):
        perm = Permutation.random(layout, seed)
        one = Permutation({dim: perm[dim]})
        yield one if one.fraction_moved(dim) else Permutation({dim: perm[dim].roll(1, -1)})


def compare(shipped: Group, derived: Group) -> Comparison:
    """Compare a derived group with a shipped one, dim by dim."""
    theirs = {dim: _images(shipped, dim, derived) for dim in shipped.layout.moving()}
    ours = {dim: _images(derived, dim, shipped) for dim in derived.layout.moving()}
    beyond = {dim for dim, touched in ours.items() if touched is None}
    parts = {dim for touched in ours.values() for dim in touched or ()}
    inside = {dim: touched for dim, touched in theirs.items() if touched is not None}
    outside = [dim for dim in theirs if dim not in inside]
    used = {dim for touched in inside.values() for dim in touched}
    return Comparison(
        equal=tuple(dim for dim, touched in inside.items() if not touched & beyond),
        finer=tuple(dim for dim, touched in inside.items() if touched & beyond),
        coarser=tuple(dim for dim in outside if dim in parts),
        missing=tuple(dim for dim in outside if dim not in parts),
        more=tuple(sorted(beyond - used)),
        orders=(_order(shipped.layout), _order(derived.layout)),
    )


def _images(group: Group, dim: str, other: Group) -> set[str] | None:
    """The dims of another layout that move when one dim does; None if it has no such element."""
    touched: set[str] = set()
    for permutation in elements(group.layout, dim):
        found = other.read(group.element(permutation))
        if found is None:
            return None
        touched |= set(found)
    return touched


def _order(layout: Layout) -> float:
    return sum(math.prod(layout.owner_sizes(dim)) * math.lgamma(layout.dims[dim].size + 1) for dim in layout.moving())
