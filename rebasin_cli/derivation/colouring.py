"""Colours on the indices of axes: two indices of one colour have not been told apart yet.

An axis is (name of a tensor, number of the axis). A colouring gives every index of every axis a colour, 0, 1, … on
each axis. Two colourings that are refined together are kept in step: equal colours mean indices that a symmetry may
send to each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AxisOf = tuple[str, int]
"""The name of a tensor, and the number of one of its axes."""

Colours = NDArray[np.int64]
Colouring = Mapping[AxisOf, Colours]


class MismatchError(Exception):
    """Two colourings that were refined together have other colours on an axis: no symmetry sends one to the other."""


@dataclass(frozen=True, slots=True)
class ColourClass:
    """The indices of an axis that have one colour, in order.

    Attributes:
        positions: in the first of two colourings.
    """

    axis: AxisOf
    colour: int
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.positions)


def uniform(shapes: Mapping[str, Sequence[int]]) -> dict[AxisOf, Colours]:
    """One colour an axis."""
    return {(name, at): np.zeros(n, np.int64) for name, shape in shapes.items() for at, n in enumerate(shape)}


def classes(colouring: Colouring) -> Iterator[ColourClass]:
    """The classes of more than one index."""
    for axis, colours in colouring.items():
        counts = np.bincount(colours)
        for colour in np.flatnonzero(counts > 1):
            yield ColourClass(axis, int(colour), tuple(np.flatnonzero(colours == colour).tolist()))


def recoloured(
    colourings: Sequence[Colouring], changes: Sequence[tuple[ColourClass, Sequence[Colours]]]
) -> list[dict[AxisOf, Colours]]:
    """The colourings with classes split: for each class and each colouring, the part that every member is in."""
    changed = [dict(colouring) for colouring in colourings]
    for cls, parts in changes:
        offset = max(int(colouring[cls.axis].max()) for colouring in changed) + 1
        for colouring, original, part in zip(changed, colourings, parts, strict=True):
            colours = colouring[cls.axis].copy()
            colours[np.flatnonzero(original[cls.axis] == cls.colour)] = offset + part
            colouring[cls.axis] = colours
    for axis in {cls.axis for cls, _ in changes}:
        together = np.concatenate([colouring[axis] for colouring in changed])
        dense = np.unique(together, return_inverse=True)[1].reshape(len(changed), -1)
        for colouring, colours in zip(changed, dense, strict=True):
            colouring[axis] = colours.astype(np.int64)
    return changed


def count(colouring: Colouring) -> int:
    """How many colours there are, over all axes."""
    return sum(int(colours.max()) + 1 for colours in colouring.values() if colours.size)


def connected(n: int, links: Iterable[tuple[int, int]]) -> Colours:
    """For each of n things one that stands for all that it is linked with, directly or through others."""
    root = list(range(n))

    def top(one: int) -> int:
        while root[one] != one:
            one = root[one]
        return one

    for one, two in links:
        root[top(int(one))] = top(int(two))
    return np.array([top(one) for one in range(n)], np.int64)
