"""Trials of a search: classes of units that are permuted at once, and the parts that follow their orders.

A trial gives every class random orders of its blocks. Whatever it splits is matched with the orders of its classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from rebasin_cli.derivation.colouring import AxisOf, ColourClass, Colouring, Colours, connected

_ORDERS = 20  # draws of one that keeps no blocks together


@dataclass(frozen=True, slots=True)
class Trial:
    """Classes that are permuted at once.

    Attributes:
        blocks: for each index of a class, the block that it moves with.
        rounds: for every round and class the order of its blocks in the second colouring. Over all rounds no two
            classes have the same orders, so that what moves along with which of them can be told.
    """

    classes: tuple[ColourClass, ...]
    blocks: Colours
    rounds: tuple[tuple[Colours, ...], ...]

    @property
    def units(self) -> int:
        """How many blocks each class has."""
        return int(self.blocks.max()) + 1


def drawn(random: Random, group: Sequence[ColourClass], blocks: Colours | None = None) -> Trial:
    """A trial of classes, in as many rounds as it takes to give each of them orders of its own."""
    blocks = np.arange(len(group[0])) if blocks is None else blocks
    units = int(blocks.max()) + 1
    rounds, orders = 1, math.factorial(min(units, 20))
    if units > 3:
        orders //= 2  # as many at least keep no blocks together: 12 of the 24 of four units
    while orders**rounds <= len(group):
        rounds += 1
    taken: set[tuple[tuple[int, ...], ...]] = {(tuple(range(units)),) * rounds}
    codes = []
    for _ in group:
        while (code := tuple(_ordered(random, units) for _ in range(rounds))) in taken:
            pass
        taken.add(code)
        codes.append(code)
    return Trial(tuple(group), blocks, tuple(tuple(np.array(code[at]) for code in codes) for at in range(rounds)))


def _ordered(random: Random, units: int) -> tuple[int, ...]:
    """A random order that keeps no blocks together, which would pass where blocks alone may be permuted."""
    order: tuple[int, ...] = ()
    for _ in range(_ORDERS):
        order = tuple(random.sample(range(units), units))
        if not any(_keeps(order, blocks) for blocks in cuts(units)):
            break
    return order


def longer(random: Random, trial: Trial) -> Trial:
    """The trial with one more round, in which no block rests and each comes to the place of every other."""
    circles = []
    for _ in trial.classes:
        ring, order = random.sample(range(trial.units), trial.units), np.arange(trial.units)
        order[ring] = ring[1:] + ring[:1]
        circles.append(order)
    return replace(trial, rounds=(*trial.rounds, tuple(circles)))


def cuts(n: int) -> Iterator[Colours]:
    """Every way to cut n units into equal chunks or strides, the fewest first: for each unit its block."""
    for count in range(2, n):
        if n % count == 0:
            yield np.arange(n) // (n // count)
            yield np.arange(n) % count


def respected(orbit: Colours) -> list[Colours]:
    """The cuts of a class of which the block of the first index is a union of parts."""
    found = []
    for blocks in cuts(len(orbit)):
        inside = blocks == blocks[0]
        if not set(orbit[inside].tolist()) & set(orbit[~inside].tolist()):
            found.append(blocks)
    return found


def _keeps(order: Sequence[int], blocks: Colours) -> bool:
    """Whether an order sends blocks to blocks."""
    sent = set(zip(blocks.tolist(), blocks[list(order)].tolist(), strict=True))
    return len(sent) == int(blocks.max()) + 1


def by_appearance(colours: Colours) -> Colours:
    """The same partition, numbered in the order in which its parts appear."""
    _, first, inverse = np.unique(colours, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


Reading = tuple[int | None, Colours, Colours]
"""A move that indices of a split class follow (None: no known one), these indices, and the unit of each."""


class Split:
    """A class of indices that a trial split, and where each of its parts is in the second colouring of every round.

    Attributes:
        places: of its indices in the first colouring; parts: by index, 0, 1, … in order of appearance.
    """

    def __init__(self, axis: AxisOf, one: Colours, two: Colours, states: Sequence[Sequence[Colouring]]) -> None:
        self.axis, self.places = axis, one
        self.parts = by_appearance(states[-1][0][axis][one])
        self._all = np.arange(len(one))
        self._seen = [self._arrived(first[axis][one], second[axis][two]) for first, second in states]

    def _arrived(self, first: Colours, second: Colours) -> Colours:
        number = {int(colour): int(part) for colour, part in zip(first, self.parts, strict=True)}
        return np.array([number.get(int(colour), -1) for colour in second])

    def readings(self, trial: Trial, start: int, orders: Mapping[int, Colours]) -> list[Reading]:
        """What its indices follow: classes of the trial, as moves from `start` on, or earlier moves, by their orders
        in the second colouring, which the indices did not show before.
        """
        whole = self._reading(trial, start, orders, self._all)
        if whole[0] is not None:
            return [whole]
        found = [self._reading(trial, start, orders, orbit) for orbit in self._orbits()]
        if any(move is None for move, _, _ in found):
            return self._in_runs(trial, start, orders) or found
        return found

    def match(self, trial: Trial, here: Colours | None = None, there: Colours | None = None) -> int | None:
        """The class of the trial of which these indices follow the orders; None if there is none.

        Args:
            here: in the first colouring, all without; there: the places where they are in the second, the same without.
        """
        units, seen = self._units(self._all if here is None else here, there)
        if units.max() + 1 != trial.units:
            return None
        for at in range(len(trial.classes)):
            if all(np.array_equal(orders[at][units], to) for orders, to in zip(trial.rounds, seen, strict=True)):
                return at
        return None

    def _reading(self, trial: Trial, start: int, orders: Mapping[int, Colours], inside: Colours) -> Reading:
        """The one move that some indices follow: of an earlier one they show no more than its order in every round."""
        at = self.match(trial, inside)
        units, seen = self._units(inside)
        if at is not None:
            return start + at, inside, units
        for move, order in orders.items():
            if units.max() + 1 == len(order) and all(np.array_equal(order[units], to) for to in seen):
                return move, inside, units
        return None, inside, units

    def _in_runs(self, trial: Trial, start: int, orders: Mapping[int, Colours]) -> list[Reading]:
        """Of runs of neighbours, each as long as it can be; nothing if one of them follows no move."""
        found: list[Reading] = []
        ends, at = self._ends(), 0
        while at < len(self.parts):
            for end in reversed([end for end in ends if end > at]):
                run = self._all[at:end]
                whole = [self._reading(trial, start, orders, run)]
                read = whole if whole[0][0] is not None else self._in_blocks(trial, start, orders, run)
                if read:
                    found, at = [*found, *read], end
                    break
            else:
                return []
        return found

    def _ends(self) -> list[int]:
        """Where a run of neighbours may end: all before are sent to places before."""
        last = dict(zip(self.parts.tolist(), self._all.tolist(), strict=True))
        reach = np.array([max(last.get(int(seen[at]), at) for seen in self._seen) for at in self._all])
        return [at + 1 for at in self._all.tolist() if reach[: at + 1].max() <= at]

    def _in_blocks(self, trial: Trial, start: int, orders: Mapping[int, Colours], run: Colours) -> list[Reading]:
        """Equal blocks or strides of a run follow an earlier move, and what is in each of them a class of the trial."""
        for move, order in orders.items():
            if len(run) % len(order) or len(run) == len(order):
                continue
            for blocks in (run.reshape(len(order), -1), run.reshape(-1, len(order)).T):
                inner = [self.match(trial, blocks[block], blocks[place]) for place, block in enumerate(order)]
                if None in inner:
                    continue
                pairs = zip(order, inner, strict=True)
                units = np.repeat(np.arange(len(order)), blocks.shape[1])
                inside = [(start + (at or 0), blocks[b], self._units(blocks[b])[0]) for b, at in pairs]
                return [(move, blocks.flatten(), units), *inside]
        return []

    def _units(self, here: Colours, there: Colours | None = None) -> tuple[Colours, list[Colours]]:
        """The parts that some indices are in, numbered as they appear, and those that stand there in every round."""
        units = by_appearance(self.parts[here])
        number = dict(zip(self.parts[here].tolist(), units.tolist(), strict=True))
        place = here if there is None else there
        return units, [np.array([number.get(part, -1) for part in arrived[place].tolist()]) for arrived in self._seen]

    def _orbits(self) -> Iterator[Colours]:
        """The parts that a trial sends to each other, those that it leaves where they are aside: they were told apart
        by something that was hidden before.
        """
        moves = (pair for arrived in self._seen for pair in zip(self.parts, np.maximum(arrived, 0), strict=True))
        orbit = connected(int(self.parts.max()) + 1, moves)[self.parts]
        for each in np.unique(orbit):
            if len(np.unique(self.parts[orbit == each])) > 1:
                yield np.flatnonzero(orbit == each)


def splits(before: Sequence[Colouring], states: Sequence[Sequence[Colouring]]) -> list[Split]:
    """The classes that a trial split."""
    found, after = [], states[-1][0]
    for axis, colours in before[0].items():
        if after[axis].max() == colours.max():
            continue
        for colour in np.unique(colours):
            one, two = (np.flatnonzero(side[axis] == colour) for side in before)
            if (after[axis][one] != after[axis][one[0]]).any():
                found.append(Split(axis, one, two, states))
    return found


def squared(trial: Trial, seen: Sequence[tuple[Colours, Colours]]) -> int | None:
    """The class of the trial of which an axis has all pairs of units, as a flattened square matrix has; None if none.

    Args:
        seen: for every round the colours of the axis in the first and in the second colouring.
    """
    n = trial.units
    if any(len(first) != n * n or len(np.unique(first)) <= n for first, _ in seen):
        return None
    for at in range(len(trial.classes)):
        moved = zip(seen, (orders[at] for orders in trial.rounds), strict=True)
        if all(np.array_equal(first.reshape(n, n)[np.ix_(o, o)].ravel(), second) for (first, second), o in moved):
            return at
    return None
