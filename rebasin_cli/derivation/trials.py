"""Trials of a search: classes of units that are permuted at once, and the parts that follow their orders.

A trial gives every class random orders of its blocks. Whatever it splits is matched with the orders of its classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

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
    rounds = 1
    while math.factorial(min(units, 20)) ** rounds <= len(group):
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


def _keeps(order: Sequence[int], blocks: Colours) -> bool:
    """Whether an order sends blocks to blocks."""
    sent = set(zip(blocks.tolist(), blocks[list(order)].tolist(), strict=True))
    return len(sent) == int(blocks.max()) + 1


def by_appearance(colours: Colours) -> Colours:
    """The same partition, numbered in the order in which its parts appear."""
    _, first, inverse = np.unique(colours, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


class Split:
    """A class of indices that a trial split, and where each of its parts is in the second colouring of every round.

    Attributes:
        places: of its indices in the first colouring; parts: by index, 0, 1, … in order of appearance.
    """

    def __init__(self, axis: AxisOf, one: Colours, two: Colours, states: Sequence[Sequence[Colouring]]) -> None:
        self.axis, self.places = axis, one
        self.parts = by_appearance(states[-1][0][axis][one])
        self.all = np.ones(len(one), bool)
        self._seen = [self._arrived(first[axis][one], second[axis][two]) for first, second in states]

    def _arrived(self, first: Colours, second: Colours) -> Colours:
        number = {int(colour): int(part) for colour, part in zip(first, self.parts, strict=True)}
        return np.array([number.get(int(colour), -1) for colour in second])

    def match(self, trial: Trial, inside: NDArray[np.bool_]) -> int | None:
        """The class of the trial of which these indices follow the orders; None if there is none."""
        units, seen = self._units(inside)
        if units.max() + 1 != trial.units:
            return None
        for at in range(len(trial.classes)):
            if all(np.array_equal(orders[at][units], to) for orders, to in zip(trial.rounds, seen, strict=True)):
                return at
        return None

    def follows(self, orders: Mapping[int, Colours], inside: NDArray[np.bool_]) -> int | None:
        """The earlier move of which these indices follow the order in every round: they showed no more than that now.

        Args:
            orders: by move, the order of its units in the second colouring.
        """
        units, seen = self._units(inside)
        for move, order in orders.items():
            if units.max() + 1 == len(order) and all(np.array_equal(order[units], to) for to in seen):
                return move
        return None

    def _units(self, inside: NDArray[np.bool_]) -> tuple[Colours, list[Colours]]:
        """The parts that some indices are in, numbered as they appear, and those that stand there in every round."""
        units = by_appearance(self.parts[inside])
        number = dict(zip(self.parts[inside].tolist(), units.tolist(), strict=True))
        return units, [np.array([number.get(part, -1) for part in arrived[inside].tolist()]) for arrived in self._seen]

    def orbits(self) -> Iterator[NDArray[np.bool_]]:
        """The parts that a trial sends to each other, those that it leaves where they are aside: they were told apart
        by something that was hidden before.
        """
        moves = (pair for arrived in self._seen for pair in zip(self.parts, np.maximum(arrived, 0), strict=True))
        orbit = connected(int(self.parts.max()) + 1, moves)[self.parts]
        for each in np.unique(orbit):
            if len(np.unique(self.parts[orbit == each])) > 1:
                yield orbit == each


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
