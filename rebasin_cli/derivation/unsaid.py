"""The counter-proof: what may be permuted though a spec does not say so.

A proof shows that all that a spec moves may move, and says nothing of what it leaves out. Here a spec's own orbits are
compared with the classes of indices that refinement cannot tell apart: with nothing told, and with one unit of each
dim told apart. Where a class holds several orbits, two indices of different orbits are refined against each other. If
they stay alike, something may send one to the other that the spec does not say. Refinement does not see everything
(heads may look alike to it that are not), so what it would be is read off, index by index, and tried on the network.
Units that the spec permutes anyway, and that the two have no part in, are told apart first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.derivation.candidate import TOLERANCE, Judge
from rebasin_cli.derivation.colouring import (
    AxisOf,
    ColourClass,
    Colouring,
    Colours,
    MismatchError,
    classes,
    connected,
    recoloured,
)
from rebasin_cli.derivation.refinement import Refiner
from rebasin_cli.derivation.search import Search
from rebasin_cli.derivation.soundness import unread_tensors
from rebasin_cli.permutation.gather import permute_tensor
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec.binding.layout import INDEX_SIDE, Layout, Piece

_ELEMENTS = 8
"""Random elements that orbits are made of: two generate a symmetric group nearly always."""

LATE = "units that were not compared in time"

_TRIES = 40
"""Refinements, of all that it takes to read off what may be unsaid."""


@dataclass(frozen=True, slots=True)
class Unsaid:
    """Pairs of indices of different orbits of a spec.

    Attributes:
        free: the real network lets them be exchanged; undecided: refinement does not tell them apart, and no order of
            all indices that would exchange them was found in time.
    """

    free: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()


class _UndecidedError(Exception):
    """Too many refinements were tried."""


def unsaid(
    judge: Judge, layout: Layout, seed: int = 0, *, briefly: bool = False, seconds: float = float("inf")
) -> Unsaid:
    """What the network lets be exchanged and the spec does not.

    Args:
        seconds: after which nothing else is compared, which is undecided then.
        briefly: with nothing told alone, some eight passes: what is inside of heads and groups is not looked for.
    """
    end, search = monotonic() + seconds, Search(judge.network, seed)
    base = search.begin()
    counter = _Counter(judge, layout, search.refiner, base, end)
    found = list(counter.against(base, None))
    for point in [] if found or briefly else dict.fromkeys(counter.points.values()):
        with suppress(MismatchError):
            told = search.refiner.refine(recoloured([base], [counter.told(base, point)]))[0]
            found += counter.against(told, point)
        if found:
            break
        if monotonic() > end:
            counter.undecided.append(LATE)
            break
    return Unsaid(tuple(found), tuple(counter.undecided))


@dataclass(frozen=True, slots=True)
class _Point:
    """An index of an axis."""

    axis: AxisOf
    index: int


class _Counter:
    """Compares the orbits of a spec with classes of colours."""

    def __init__(self, judge: Judge, layout: Layout, refiner: Refiner, base: Colouring, end: float) -> None:
        self._end = end
        self._judge, self._layout, self._refiner, self._base = judge, layout, refiner, base
        self._keys = {name: keys[0] for name, keys in judge.network.keys.items()}
        self._indexed = {bound.index_dim for bound in layout.tensors.values()}
        self._drawn = [
            Permutation({dim: p for dim, p in Permutation.random(layout, seed).items() if dim not in self._indexed})
            for seed in range(_ELEMENTS)
        ]
        self._orbits = self._orbits_at(None)
        self._unread = frozenset(unread_tensors(judge))
        self._tries = _TRIES
        self.undecided: list[str] = []
        self._orders: list[Mapping[AxisOf, Colours]] = []  # that the real network keeps

    @cached_property
    def points(self) -> Mapping[str, _Point]:
        """For every dim an index that carries a unit of it, and as few of other dims as can be."""
        best: dict[str, tuple[int, _Point]] = {}
        for name, key in self._keys.items():
            shape = self._judge.network.shapes[name]
            for piece in self._layout.tensors[key].pieces:
                for at in range(len(shape)):
                    sides, first = _on_axis(piece, shape, at)
                    dims = [piece.sides[side].dim for side in sides]
                    if self._refiner.silent((name, at))[first]:
                        continue
                    for dim in dims:
                        if dim is not None and (dim not in best or len(dims) < best[dim][0]):
                            best[dim] = (len(dims), _Point((name, at), first))
        return {dim: point for dim, (_, point) in best.items()}

    def told(self, colouring: Colouring, *points: _Point) -> tuple[ColourClass, list[Colours]]:
        """A change of as many colourings as there are points: in each the index of one is told apart."""
        colours = colouring[points[0].axis]
        colour = int(colours[points[0].index])
        members = np.flatnonzero(colours == colour)
        cls = ColourClass(points[0].axis, colour, tuple(members.tolist()))
        return cls, [(members == point.index).astype(np.int64) for point in points]

    def against(self, colouring: Colouring, point: _Point | None) -> Iterator[str]:
        """What refines alike and is in different orbits of those elements that leave a point where it is."""
        orbits = self._orbits_at(point)
        for cls in classes(colouring):
            (name, at), silent = cls.axis, self._refiner.silent(cls.axis)
            if name in self._unread:
                continue
            heard = [index for index in cls.positions if not silent[index]]
            by_orbit = {int(orbits[cls.axis][index]): index for index in reversed(heard)}
            one, *others = list(by_orbit.values())[::-1] or [0]
            for two in others:
                known = point is not None and self._orbits[cls.axis][one] != self._orbits[cls.axis][two]
                text = f"{one} and {two} on axis {at} of {name}"
                try:
                    if known or not self._exchanged(colouring, _Point(cls.axis, one), _Point(cls.axis, two), point):
                        continue
                    yield text
                except _UndecidedError:
                    self.undecided.append(text)
                break

    def _exchanged(self, colouring: Colouring, one: _Point, two: _Point, rests: _Point | None) -> bool:
        """Whether something that the real network keeps sends one index to the other, and leaves a point in place."""
        moved = self._orbits[one.axis]
        if any(moved[one.index] != moved[order[one.axis][one.index]] for order in self._orders):
            return True
        cls, parts = self.told(colouring, one, two)
        apart = self._unmoved(colouring, [one, two, *([rests] if rests else [])])
        return self._extends([colouring, colouring], [(cls, parts), *apart])

    def _unmoved(
        self, colouring: Colouring, points: Sequence[_Point]
    ) -> Iterator[tuple[ColourClass, Sequence[Colours]]]:
        """Classes of units that any exchange of points may be taken to leave in place: of dims that no point carries,
        so that the spec's own order of their units puts them back and moves no point.
        """
        carried = {dim for point in points for dim, _, _ in self._units(point)}
        for dim in self._layout.moving():
            if dim in carried or dim in self._indexed or dim not in self.points or self._layout.dims[dim].owner:
                continue
            cls, _ = self.told(colouring, self.points[dim])
            units = [[unit[:2] for unit in self._units(_Point(cls.axis, at))] for at in cls.positions]
            alone = all(len(own) == 1 and own[0][0] == dim for own in units)
            if len(cls) > 1 and alone and len({unit for (_, unit), *_ in units}) == len(cls):
                yield cls, [np.arange(len(cls))] * 2

    def _extends(self, colourings: Sequence[Colouring], told: Sequence[tuple[ColourClass, Sequence[Colours]]]) -> bool:
        """Whether what two colourings say goes on to an order of all indices that the real network keeps."""
        if self._tries <= 0 or monotonic() > self._end:
            raise _UndecidedError
        self._tries -= 1
        try:
            refined = self._refiner.refine(recoloured(colourings, told), 1)
        except MismatchError:
            return False
        waiting = [cls for cls in classes(refined[0]) if not self._refiner.silent(cls.axis)[list(cls.positions)].all()]
        if not waiting:
            return self._kept(refined)
        together = [(cls, [np.arange(len(cls))] * 2) for cls in waiting]  # all that the exchange leaves where it is
        if len(together) > 1 and self._extends(refined, together):
            return True
        cls = min(waiting, key=len)
        return any(self._extends(refined, [(cls, parts)]) for parts in _ways(len(cls)))

    def _kept(self, colourings: Sequence[Colouring]) -> bool:
        """Whether the real network keeps its outputs when every index goes from where one colouring has it to where
        the other has it.
        """
        order = {axis: _sources(colourings[0][axis], colourings[1][axis]) for axis in colourings[0]}
        state = dict(self._judge.state)
        for name, keys in self._judge.network.keys.items():
            tensor = self._judge.state[name]
            for at in range(tensor.dim()):
                tensor = tensor.index_select(at, torch.from_numpy(order[name, at]))
            state |= dict.fromkeys(keys, tensor)
        kept = self._judge.change(state) <= TOLERANCE
        self._orders += [order] * kept
        return kept

    def _orbits_at(self, point: _Point | None) -> dict[AxisOf, Colours]:
        """For every axis the orbits of its indices, numbered."""
        fixed = list(self._units(point)) if point is not None else []
        drawn = [_resting(permutation, fixed) for permutation in self._drawn]
        found: dict[AxisOf, Colours] = {}
        for name, key in self._keys.items():
            shape = self._judge.network.shapes[name]
            for at, length in enumerate(shape):
                view = [-1 if other == at else 1 for other in range(len(shape))]
                places = torch.arange(length).view(view).expand(shape).contiguous()
                found[name, at] = _joined(length, places, [self._moved(key, places, p) for p in drawn])
        return found

    def _moved(self, key: str, places: Tensor, permutation: Permutation) -> Tensor:
        return permute_tensor(permutation, self._layout, key, lambda _: places)

    def _units(self, point: _Point) -> Iterator[tuple[str, int, tuple[int | slice, ...]]]:
        """The units that an index carries: (dim, unit, units of its owners, or all where they are on another axis)."""
        (name, at), shape = point.axis, self._judge.network.shapes[point.axis[0]]
        bound = self._layout.tensors[self._keys[name]]
        for piece in bound.pieces:
            sides, first = _on_axis(piece, shape, at)
            stride = _stride(shape, at)
            steps = {side: piece.sides[side].stride // stride for side in sides}
            places = {side: (point.index - first) // step % piece.sides[side].size for side, step in steps.items()}
            if point.index != first + sum(steps[side] * place for side, place in places.items()):
                continue  # it is of another piece, which may lie between the units of this one
            for side, place in places.items():
                dim, owners, owner = piece.sides[side].dim, [], piece.sides[side].owner
                while owner is not None:
                    owners.append(bound.place if owner == INDEX_SIDE else places.get(owner, slice(None)))
                    owner = None if owner == INDEX_SIDE else piece.sides[owner].owner
                if dim is not None:
                    yield dim, place, tuple(reversed(owners))


def _ways(n: int) -> Iterator[list[Colours]]:
    """Orders in which n indices that look alike may be told apart in two colourings: all as they are, or the first
    one alone, as each of the others.
    """
    yield [np.arange(n)] * 2
    for at in range(n):
        yield [(np.arange(n) == 0).astype(np.int64), (np.arange(n) == at).astype(np.int64)]


def _sources(first: Colours, second: Colours) -> Colours:
    """For every place in the second colouring where its colour is in the first, in order."""
    sources = np.empty_like(first)
    sources[np.argsort(second, kind="stable")] = np.argsort(first, kind="stable")
    return sources


def _stride(shape: tuple[int, ...], at: int) -> int:
    return int(np.prod(shape[at + 1 :], dtype=np.int64))


def _on_axis(piece: Piece, shape: tuple[int, ...], at: int) -> tuple[list[int], int]:
    """The sides of a piece that lie along an axis, and the first index of the axis that it has."""
    stride = _stride(shape, at)
    sides = [n for n, s in enumerate(piece.sides) if s.size > 1 and stride <= s.stride < stride * shape[at]]
    return sides, piece.offset // stride % shape[at]


def _resting(permutation: Permutation, fixed: list[tuple[str, int, tuple[int | slice, ...]]]) -> Permutation:
    """The permutation with some units put back to their places."""
    changed = {dim: permutation[dim].clone() for dim, _, _ in fixed if dim in permutation}
    for dim, unit, owners in fixed:
        if dim in changed:
            rows = changed[dim][owners] if owners else changed[dim]
            flat = rows.reshape(-1, rows.shape[-1])
            at = (flat == unit).int().argmax(-1)
            flat = flat.scatter(1, at[:, None], flat[:, unit : unit + 1])
            flat[:, unit] = unit
            if owners:
                changed[dim][owners] = flat.reshape(rows.shape)
            else:
                changed[dim] = flat.reshape(rows.shape)
    return permutation.replace(changed)


def _joined(length: int, here: Tensor, moved: list[Tensor]) -> Colours:
    """Numbers of the orbits of indices that some moves send to each other."""
    pairs = (torch.unique(here.flatten() * length + there.flatten()).tolist() for there in moved if there is not here)
    return connected(length, (divmod(pair, length) for found in pairs for pair in found))
