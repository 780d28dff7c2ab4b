"""What every matching method returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rebasin_cli.permutation import Permutation

Stop = Literal["converged", "max-sweeps", "nothing-to-move"]


@dataclass(frozen=True, slots=True)
class MatchResult:
    """A permutation of B's units, and how it was found.

    Attributes:
        method: name of the method, as `--method` has it.
        objective: ⟨A, π(B)⟩ over the spec's `tensors`: at the start, then after every sweep; float64, never falling.
        stop: why it ended.
        gains: how much each dim's steps raised the objective in all (a block's gain stands under its root).
        seconds: wall time by phase.
        solves: assignments solved, the inner ones of heads and groups included.
        solvers: how many of them each solver did; gap: the largest certified distance from the optimum of one.
    """

    method: str
    permutation: Permutation
    objective: tuple[float, ...]
    stop: Stop
    seed: int
    seconds: Mapping[str, float]
    solves: int
    gains: Mapping[str, float] = field(default_factory=dict)
    solvers: Mapping[str, int] = field(default_factory=dict)
    gap: float | None = None
