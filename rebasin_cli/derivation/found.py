"""What a search found: moves, and the units of them that every index of an axis carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rebasin_cli.derivation.colouring import AxisOf, ColourClass


@dataclass(frozen=True, slots=True)
class Move:
    """A set of units that may be permuted, as it was found.

    Attributes:
        axis: where it was found; units: how many.
    """

    axis: AxisOf
    units: int


Marks = dict[int, tuple[int, int]]
"""Of one index of an axis: move → (unit, number of units)."""


@dataclass(slots=True)
class Found:
    """What a search found.

    Attributes:
        moves: in the order in which they were found; marks: for every axis and index the units that it belongs to.
        same: further moves of a dim that has two units on an index, with the first one.
        twisted: moves whose units stand in another order on some axis, which no pattern can say, with that axis.
        still: classes of units that are alike at first, yet no order of them but the given one keeps the function.
        silent: axes with indices that no gradient reaches, with how many.
        routed: axes that were told apart from the start, as the network chooses among them: among how many at once.
        complete: whether all was decided in time.
    """

    moves: list[Move] = field(default_factory=list)
    marks: dict[AxisOf, list[Marks]] = field(default_factory=dict)
    same: dict[int, int] = field(default_factory=dict)
    twisted: dict[int, AxisOf] = field(default_factory=dict)
    still: list[tuple[ColourClass, str]] = field(default_factory=list)
    silent: dict[AxisOf, int] = field(default_factory=dict)
    routed: Mapping[AxisOf, int] = field(default_factory=dict)
    complete: bool = True
    passes: int = 0
    seconds: float = 0.0
