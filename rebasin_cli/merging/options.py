"""What can be said of a path between two networks and of a merge of several.

As the options of matching they import no torch; what mixes tensors is in modules of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from rebasin_cli.errors import UsageError

Combine = Literal["lerp", "slerp"]

Algorithm = Literal["merge-many", "cycle-consistent", "frank-wolfe", "to-first", "hierarchical"]

BY_ACTIVATIONS: tuple[Algorithm, ...] = ("cycle-consistent", "merge-many", "to-first")
"""Algorithms that activations can take the place of weights in."""


@dataclass(frozen=True, slots=True)
class Blend:
    """How two tensors are combined.

    Attributes:
        how: `lerp` along the straight line; `slerp` along the arc between them, which keeps their length.
        weights: (pattern of keys, λ of its own); of several that match, the last counts.
    """

    how: Combine = "lerp"
    weights: tuple[tuple[str, float], ...] = ()

    def at(self, key: str, lam: float) -> float:
        """The λ of a tensor."""
        for pattern, own in self.weights:
            lam = own if fnmatchcase(key, pattern) else lam
        return lam


LINE = Blend()
"""The straight line, one λ for all."""


def check_lambda(lam: float) -> None:
    """Refuse a λ outside 0–1.

    Raises:
        UsageError: `lam` is below 0, above 1 or not a number.
    """
    if not 0.0 <= lam <= 1.0:
        raise UsageError(
            f"λ is {lam:g}, but it is the weight on B and lies between 0 (A) and 1 (B)",
            remedy="give a number from 0 to 1; 0.5 is the midpoint",
        )


def lambda_grid(steps: int) -> tuple[float, ...]:
    """`steps` evenly spaced λ from 0 to 1, both ends included (25 points are 24 intervals).

    Raises:
        UsageError: fewer than two points, which would leave an end out.
    """
    if steps < 2:
        raise UsageError(
            f"a path of {steps} points cannot include both ends",
            remedy="give at least 2 points; 25 is usual",
        )
    return tuple(i / (steps - 1) for i in range(steps))


@dataclass(frozen=True, slots=True)
class ManyOptions:
    """How N models are brought together.

    Attributes:
        algorithm: `to-first` matches every model to the first; `hierarchical` pairs of models, then pairs of pairs;
            `merge-many` each in random order to the mean of the others, until nothing rises (Git Re-Basin,
            arXiv:2209.04836, Algorithm 3); `cycle-consistent` begins as `hierarchical` and then takes one sweep of
            each model at a time, so that all move together; `frank-wolfe` goes on from there with doubly stochastic
            matrices of all models (see `frank_wolfe_many`), and holds all of them in memory.
        max_rounds: after which the search ends.
    """

    algorithm: Algorithm = "cycle-consistent"
    max_rounds: int = 100
