"""Permutations as values: one index array a dim, one convention, and the algebra on them.

The convention, here and everywhere: a permutation is a gather. A dim of its own has an array of shape (n,) with
`aligned[i] = b[perm[i]]`. A dim within an owner has one of shape (*owner sizes, n), one permutation for every
unit of the owner, indexed by the owner's place in A: `aligned[g, i] = b[P[g], p[g, i]]`. A dim without an array
stays at identity. An entry below zero, `~j`, (that is −1 − j) is unit j with its sign turned: one
array of a dim is an element of the group of signed permutations, a plain one if no entry is below zero.
Units may have scales, too: of the same shape and by A's places, so that what writes to place i is
`scales[i] · b[perm[i]]`. And linear maps may act on all units of a dim, (*owner sizes, n, n), by A's places, too: what
writes to the units becomes M · (b[perm]), and what reads them is mapped by the inverse of Mᵀ. Norms on a stream that is
mapped exchange their gains for others: what reads them takes up the old ones and is divided by the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rebasin_cli.checkpoints.tensors import hash_tensors
from rebasin_cli.spec import Layout

Turn = Callable[[Tensor], Tensor]
"""What turning a sign does to the elements of a tensor."""


def units_of(perm: Tensor) -> Tensor:
    """The units alone."""
    return torch.where(perm < 0, ~perm, perm)


def with_turns(units: Tensor, turned: Tensor) -> Tensor:
    """Units, some of them turned once more than they are."""
    return torch.where(turned, ~units, units)


def signs_of(perm: Tensor, like: Tensor) -> Tensor:
    """1 or −1 for every entry, in the type and on the device of another tensor."""
    return torch.where(perm < 0, -1, 1).to(device=like.device, dtype=like.dtype)


def turned_where(view: Tensor, turned: Tensor, turn: Turn) -> Tensor:
    """A tensor with some of its elements turned; `turned` broadcasts to it."""
    return torch.where(turned, turn(view), view) if bool(turned.any()) else view


def taken(view: Tensor, axis: int, perm: Tensor, turn: Turn = torch.neg) -> Tensor:
    """What signed indices (n,) choose along an axis, turned where they say so."""
    perm = perm.to(view.device)
    turned = perm < 0
    if not bool(turned.any()):
        return view.index_select(axis, perm)
    chosen = view.index_select(axis, units_of(perm))
    shape = [len(perm) if at == axis else 1 for at in range(view.dim())]
    return torch.where(turned.reshape(shape), turn(chosen), chosen)


@dataclass(frozen=True, slots=True, eq=False)
class Permutation(Mapping[str, Tensor]):
    """Dim → int64 indices of shape (*owner sizes, n), signed; dims that are absent stay at identity.

    Attributes:
        scales: dim → positive float64 of the same shape, by A's places; 1 where they are absent.
        maps: dim → invertible float64 matrices (*owner sizes, n, n); the identity where they are absent.
        gains: the spec's name of a norm's gains → float64 (2, n), those that it has before and those that it is given.
    """

    indices: Mapping[str, Tensor]
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    gains: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, dim: str) -> Tensor:
        return self.indices[dim]

    def __iter__(self) -> Iterator[str]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def equals(self, other: Permutation) -> bool:
        """Whether both move every unit alike."""
        one, two = (p._computed() for p in (self, other))
        return (
            all(torch.equal(_of(self, d, other[d]), other[d]) for d in other)
            and all(torch.equal(self[d], _of(other, d, self[d])) for d in self)
            and one.keys() == two.keys()
            and all(torch.equal(one[d], two[d]) for d in one)
        )

    def _computed(self) -> dict[str, Tensor]:
        """All that multiplies, by the names it has in files."""
        scales = {f"scales:{dim}": t for dim, t in sorted(self.scales.items()) if bool((t != 1).any())}
        maps = {f"map:{dim}": t for dim, t in sorted(self.maps.items())}
        return scales | maps | {f"gains:{key}": t for key, t in sorted(self.gains.items())}

    def sha256(self) -> str:
        """Of every dim's arrays."""
        scales = {f"scales:{dim}": self.scales[dim] for dim in sorted(self.scales)}
        return hash_tensors({**{dim: self[dim] for dim in sorted(self)}, **scales, **self._computed()})

    def replace(self, changed: Mapping[str, Tensor]) -> Permutation:
        """A copy with the arrays of some dims exchanged."""
        return replace(self, indices={**self.indices, **changed})

    @staticmethod
    def identity(layout: Layout) -> Permutation:
        """Every dim that may move, at identity."""
        return Permutation({dim: _identity(layout, dim) for dim in layout.moving()})

    @staticmethod
    def random(layout: Layout, seed: int) -> Permutation:
        """Every dim that may move, uniformly at random, and signs and scales (½ to 2) where the layout has them; the
        same seed gives the same arrays on every machine."""
        generator = torch.Generator().manual_seed(seed)
        indices: dict[str, Tensor] = {}
        for dim in layout.moving():
            flat = _identity(layout, dim).reshape(-1, layout.dims[dim].size)
            for row in flat:
                torch.randperm(len(row), generator=generator, out=row)
            indices[dim] = flat.reshape(_identity(layout, dim).shape)
        for dim in layout.signed():  # last, so that the units are those that are drawn without signs
            turned = torch.randint(2, indices[dim].shape, generator=generator).bool()
            indices[dim] = with_turns(indices[dim], turned)
        scales = {
            dim: 2 ** (2 * torch.rand(indices[dim].shape, generator=generator, dtype=torch.float64) - 1)
            for dim in layout.scaled()
        }
        if not layout.rotated():
            return Permutation(indices, scales)
        from rebasin_cli.permutation.maps import random_gains, random_maps  # which few layouts have

        return Permutation(indices, scales, random_maps(layout, generator), random_gains(layout, generator))

    @property
    def has_maps(self) -> bool:
        """Whether any unit is mixed with others."""
        return bool(self.maps or self.gains)

    @property
    def has_scales(self) -> bool:
        """Whether any unit is scaled."""
        return any(bool((scale != 1).any()) for scale in self.scales.values())

    def only(self, dims: Collection[str]) -> Permutation:
        """What it does to some dims."""
        return Permutation(
            {dim: perm for dim, perm in self.indices.items() if dim in dims},
            {dim: scale for dim, scale in self.scales.items() if dim in dims},
            {dim: map_ for dim, map_ in self.maps.items() if dim in dims},
            self.gains if any(dim in dims for dim in self.maps) else {},
        )

    def without_scales(self) -> Permutation:
        """The same with no unit scaled or mapped: its units change places and signs alone."""
        return replace(self, scales={}, maps={}, gains={})

    @property
    def has_signs(self) -> bool:
        """Whether the sign of any unit is turned."""
        return any(bool((perm < 0).any()) for perm in self.indices.values())

    def without_signs(self) -> Permutation:
        """The same with no sign turned."""
        return replace(self, indices={dim: units_of(perm) for dim, perm in self.indices.items()})

    def fraction_turned(self, dim: str) -> float:
        """Share of the units of `dim` whose signs are turned (0 to 1)."""
        perm = self.indices.get(dim)
        return 0.0 if perm is None else float((perm < 0).double().mean())

    def inverse(self, layout: Layout) -> Permutation:
        """The permutation that undoes this one."""
        indices: dict[str, Tensor] = {}
        for dim, perm in self.indices.items():
            flat = perm.reshape(-1, perm.shape[-1])
            inner = torch.argsort(units_of(flat), dim=1)
            inner = with_turns(inner, (flat < 0).gather(1, inner))
            owner = layout.dims[dim].owner
            if owner is not None:
                moved = torch.empty_like(inner)
                moved[self._places(layout, owner)] = inner
                inner = moved
            indices[dim] = inner.reshape(perm.shape)
        alone = Permutation(indices)
        return replace(
            alone,
            scales={dim: alone._gathered(layout, dim, 1 / t) for dim, t in self.scales.items()},
            maps={dim: alone._gathered_map(layout, dim, torch.linalg.inv(t)) for dim, t in self.maps.items()},
            gains={key: gains.flip(0) for key, gains in self.gains.items()},
        )

    def compose(self, after: Permutation, layout: Layout) -> Permutation:
        """This one first, then `after`: applying the result equals applying both in turn."""
        indices: dict[str, Tensor] = {}
        for dim in {**self.indices, **after.indices}:
            first = self.indices.get(dim, after.indices.get(dim))
            assert first is not None
            n = first.shape[-1]
            one = _of(self, dim, first).reshape(-1, n)
            two = _of(after, dim, first).reshape(-1, n)
            owner = layout.dims[dim].owner
            if owner is not None:
                one = one[after._places(layout, owner)]
            indices[dim] = with_turns(one.gather(1, units_of(two)), two < 0).reshape(first.shape)
        scales = {dim: after._gathered(layout, dim, scale) for dim, scale in self.scales.items()}
        for dim, scale in after.scales.items():
            scales[dim] = scales[dim] * scale if dim in scales else scale
        maps = {dim: after._gathered_map(layout, dim, map_) for dim, map_ in self.maps.items()}
        for dim, map_ in after.maps.items():
            maps[dim] = map_ @ maps[dim] if dim in maps else map_
        gains = {**self.gains, **after.gains}
        for key in self.gains.keys() & after.gains.keys():
            gains[key] = torch.stack([self.gains[key][0], after.gains[key][1]])
        return Permutation(indices, scales, maps, gains)

    def _gathered_map(self, layout: Layout, dim: str, map_: Tensor) -> Tensor:
        """Matrices of units, in the places to which this permutation takes the units, with its signs."""
        n = map_.shape[-1]
        flat = map_.reshape(-1, n, n)
        owner = layout.dims[dim].owner
        if owner is not None:
            flat = flat[self._places(layout, owner)]
        perm = _of(self, dim, map_[..., 0]).reshape(-1, n)
        units, signs = units_of(perm), signs_of(perm, map_)
        rows = flat.gather(1, units[:, :, None].expand_as(flat))
        both = rows.gather(2, units[:, None, :].expand_as(flat))
        return (both * signs[:, :, None] * signs[:, None, :]).reshape(map_.shape)

    def _gathered(self, layout: Layout, dim: str, scale: Tensor) -> Tensor:
        """Scales of units, in the places to which this permutation takes the units."""
        flat = scale.reshape(-1, scale.shape[-1])
        owner = layout.dims[dim].owner
        if owner is not None:
            flat = flat[self._places(layout, owner)]
        perm = _of(self, dim, scale).reshape(flat.shape)
        return flat.gather(1, units_of(perm)).reshape(scale.shape)

    def fraction_moved(self, dim: str) -> float:
        """Share of the units of `dim` that are not in their own place, or are turned or mixed with others (0 to 1)."""
        perm = self.indices.get(dim)
        if perm is None and dim in self.maps:
            perm = _of(self, dim, self.maps[dim][..., 0])
        return 0.0 if perm is None else float(self._changed(dim, perm).double().mean())

    def _changed(self, dim: str, perm: Tensor) -> Tensor:
        n = perm.shape[-1]
        changed = perm != torch.arange(n)
        if dim in self.maps:
            changed = changed | (self.maps[dim] != torch.eye(n, dtype=torch.float64)).any(-1)
        return changed

    def count_moved(self) -> int:
        """How many units are not in their own place, or are turned, scaled or mapped, those within other units counted
        for each of these."""

        def count(dim: str, perm: Tensor) -> int:
            changed = self._changed(dim, perm)
            return int((changed | (self.scales[dim] != 1) if dim in self.scales else changed).sum())

        return sum(count(dim, perm) for dim, perm in self.items())

    def _places(self, layout: Layout, dim: str) -> Tensor:
        """For every unit of `dim` in A (owners and units flattened), its flat place in B; shape (units,)."""
        flat = _of(self, dim, _identity(layout, dim)).reshape(-1, layout.dims[dim].size)
        owner = layout.dims[dim].owner
        if owner is None:
            return flat[0]
        return (self._places(layout, owner)[:, None] * flat.shape[1] + flat).reshape(-1)


def is_identity(perm: Tensor) -> bool:
    """Whether indices (.., n) leave every unit in its place."""
    return torch.equal(perm, torch.arange(perm.shape[-1]).expand(perm.shape))


def _identity(layout: Layout, dim: str) -> Tensor:
    shape = (*layout.owner_sizes(dim), layout.dims[dim].size)
    return torch.arange(shape[-1]).expand(shape).contiguous()


def _of(permutation: Permutation, dim: str, like: Tensor) -> Tensor:
    found = permutation.indices.get(dim)
    return torch.arange(like.shape[-1]).expand(like.shape) if found is None else found
