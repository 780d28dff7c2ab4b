"""N models of one layout: their mean, what they have in common, and how far they are from each other.

A tensor of each is in memory at a time, whatever the number of models and tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from rebasin_cli.matching.objective import dot, squared_distance
from rebasin_cli.matching.problem import State
from rebasin_cli.matching.resources import Budget, budgets, keep_read
from rebasin_cli.permutation.gather import permute_tensor, permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class Models:
    """N models of one layout and their weights, which sum to 1; states may be lazy."""

    layout: Layout
    states: tuple[State, ...]
    weights: tuple[float, ...]

    @staticmethod
    def of(layout: Layout, states: Sequence[State], weights: Sequence[float] | None = None) -> Models:
        """Models with weights as they were given, from 0; equal ones if there are none."""
        given = tuple(weights) if weights else (1.0,) * len(states)
        return Models(layout, tuple(states), tuple(w / sum(given) for w in given))

    def __len__(self) -> int:
        return len(self.states)


class Mean(Mapping[str, Tensor]):
    """The weighted mean of permuted models, lazily: a tensor of each in memory at a time.

    Args:
        members: which of the models.
        placed: all of these, permuted already.
    """

    def __init__(
        self,
        models: Models,
        permutations: Sequence[Permutation],
        members: Sequence[int],
        placed: Mapping[int, State] | None = None,
    ) -> None:
        self._models, self._members = models, tuple(members)
        self._placed = [
            placed[i] if placed else permuted(permutations[i], models.layout, models.states[i]) for i in self._members
        ]

    def __getitem__(self, key: str) -> Tensor:
        total = sum(self._models.weights[i] for i in self._members)
        if not total:
            raise ValueError("the weights of these models are all zero")
        shares = iter(self._shares()[1:])
        mean: Tensor | None = None
        for wide in self._wide(key, torch.float32):
            if mean is None:  # differences to the first, so that equal models give themselves exactly
                first, mean = wide, wide.clone()
            else:
                mean += next(shares) * (wide - first)
        assert mean is not None
        if not mean.is_floating_point() or bool(mean.isfinite().all()):
            return mean
        # Differences of the largest numbers overflow where their mean does not.
        parts = (share * wide for share, wide in zip(self._shares(), self._wide(key, torch.float64), strict=True))
        return sum(parts, torch.zeros((), dtype=torch.float64)).to(mean.dtype)

    def _shares(self) -> list[float]:
        total = sum(self._models.weights[i] for i in self._members)
        return [self._models.weights[i] / total for i in self._members]

    def _wide(self, key: str, least: torch.dtype) -> Iterator[Tensor]:
        """The tensor of each member, permuted, in `least` or wider."""
        for state in self._placed:
            tensor = state[key]
            yield tensor.to(torch.promote_types(tensor.dtype, least))

    def __iter__(self) -> Iterator[str]:
        return iter(self._models.states[self._members[0]])

    def __len__(self) -> int:
        return len(self._models.states[self._members[0]])


class Means:
    """Means of all models but one, where one after the other moves: what stays in its place is permuted once.

    Args:
        memory: as of `Resources`.
    """

    def __init__(self, models: Models, memory: int | None) -> None:
        self._models, self._memory = models, memory
        self._placed: dict[int, tuple[Permutation, State]] = {}

    def without(self, i: int, found: Sequence[Permutation]) -> State:
        """The mean of the others as they are placed now; what is read of it and of them stays, as memory permits."""
        models = self._models
        others = [j for j in range(len(models)) if j != i]
        for j in others:
            if j not in self._placed or self._placed[j][0] is not found[j]:
                share = Budget(budgets(self._memory)[0].left // len(models))
                self._placed[j] = found[j], keep_read(permuted(found[j], models.layout, models.states[j]), share)
        mean = Mean(models, found, others, {j: self._placed[j][1] for j in others})
        return keep_read(mean, budgets(self._memory)[0])


def total_similarity(models: Models, permutations: Sequence[Permutation]) -> float:
    """Σ_{i<j} w_i w_j ⟨π_i(M_i), π_j(M_j)⟩, from ‖Σ w_i π_i(M_i)‖² and the norms; a tensor of each at a time."""
    total = 0.0
    everyone = Mean(models, permutations, range(len(models)))
    for key, bound in models.layout.tensors.items():
        if bound.section == "tensors":
            mean = everyone[key]
            total += dot(mean, mean)
            for weight, state in zip(models.weights, models.states, strict=True):
                tensor = state[key]
                total -= weight * weight * dot(tensor, tensor)
    return total / 2


@dataclass(frozen=True, slots=True)
class PairDistance:
    """How far two models are from each other: as they are, and in one order; cosine: between them in one order."""

    before: float
    after: float
    cosine: float


def pairwise_distances(
    models: Models, permutations: Sequence[Permutation], on_step: Callable[[str], None] | None = None
) -> dict[tuple[int, int], PairDistance]:
    """‖M_i − M_j‖, ‖π_i(M_i) − π_j(M_j)‖ and the cosine of the latter for all i < j, over the spec's `tensors`.

    One tensor of all is in memory at a time.
    """
    pairs = [(i, j) for i in range(len(models)) for j in range(i + 1, len(models))]
    squares = {pair: [0.0, 0.0] for pair in pairs}
    norms = [0.0] * len(models)
    for key, bound in models.layout.tensors.items():
        if bound.section != "tensors":
            continue
        plain = [state[key] for state in models.states]
        moved = [
            permute_tensor(permutation, models.layout, key, state.__getitem__)
            for permutation, state in zip(permutations, models.states, strict=True)
        ]
        norms = [norm + dot(tensor, tensor) for norm, tensor in zip(norms, moved, strict=True)]
        for i, j in pairs:
            squares[i, j][0] += squared_distance(plain[i], plain[j])
            squares[i, j][1] += squared_distance(moved[i], moved[j])
        if on_step:
            on_step(key)
    found = {}
    for (i, j), (before, after) in squares.items():
        scale = 2 * sqrt(norms[i] * norms[j])
        cosine = (norms[i] + norms[j] - after) / scale if scale else 1.0
        found[i, j] = PairDistance(sqrt(before), sqrt(after), cosine)
    return found
