"""What every matching method returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rebasin_cli.permutation.values import Permutation

Stop = Literal["converged", "max-sweeps", "nothing-to-move", "time", "interrupted"]


class StopMatching(Exception):  # noqa: N818  (no error: the wish to stop here)
    """Raised by a progress callback to end a match early: the method returns the best it has so far.

    Args:
        stop: why, as `MatchResult.stop` will say.
    """

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop)
        self.stop: Stop = stop


@dataclass(frozen=True, slots=True)
class Trial:
    """One of several starts.

    Attributes:
        name: where it started and in what order it went, such as `identity, random order, seed 3`.
        objective: ⟨A, π(B)⟩ at its end.
        seconds: wall time.
        kept: whether the result is its.
    """

    name: str
    objective: float
    seconds: float
    kept: bool = False


@dataclass(frozen=True, slots=True)
class MatchResult:
    """A permutation of B's units, and how it was found.

    Attributes:
        method: name of the method, as `--method` has it.
        objective: ⟨A, π(B)⟩ over the spec's `tensors`: at the start (the identity, unless a search was told to begin
            elsewhere), then after every sweep; float64, never falling (but see `match_activations`).
        stop: why it ended.
        seconds: wall time by phase.
        solves: assignments solved, the inner ones of heads and groups included.
        solvers: how many of them each solver did; gap: the largest certified distance from the optimum of one.
        trials: every start that was tried, in order, if there were several; the rest is of the one that is kept, but
            for `seconds`, `solves` and `solvers`, which are of all.
        losses: loss between A and π(B), at the start and as the search went on, of a method that looks at it.
        notes: what whoever reads the result must know.
    """

    method: str
    permutation: Permutation
    objective: tuple[float, ...]
    stop: Stop
    seed: int
    seconds: Mapping[str, float]
    solves: int
    solvers: Mapping[str, int] = field(default_factory=dict)
    gap: float | None = None
    trials: tuple[Trial, ...] = ()
    losses: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


def rising(objective: Sequence[float]) -> tuple[float, ...]:
    """The objective at the start, after what came above it meanwhile, and at the end.

    A first pass by a part of the tensors, or a rounded mixture, may lie below the start for a while; and what was
    summed up from gains in float32 may lie above the end by rounding.
    """
    start, *rest = objective
    found = [start]
    for value in rest[:-1]:
        if found[-1] <= value <= rest[-1]:
            found.append(value)
    return (*found, *rest[-1:])
