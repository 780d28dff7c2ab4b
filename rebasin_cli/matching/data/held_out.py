"""What methods that search by a network's loss share: epochs of steps, and the best permutation kept.

Whatever a method does in its steps, it is judged by the loss of the midpoint of A and π(B) on examples that no step has
seen; the first candidate is weight matching's, so that the result is never worse than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rebasin_cli.matching.descent.settling import settled
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.problem import LossProblem, MatchResult, Problem, Resources, Stop, StopMatching
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation


class Search(Protocol):
    """A method between two steps."""

    def step(self, batch: int) -> None:
        """Look at one batch and move."""

    def candidate(self) -> Permutation:
        """The permutation that it has come to."""


@dataclass(frozen=True, slots=True)
class Found:
    """The permutation with the lowest loss held out, the losses at the start and after every epoch, and the end."""

    permutation: Permutation
    losses: tuple[float, ...]
    stop: Stop

    def result(
        self, method: str, problem: Problem, first: MatchResult, solves: int, seconds: Mapping[str, float]
    ) -> MatchResult:
        """The result of a method that began where weight matching ended; its objective is that of the weights.

        Args:
            solves: assignments of its own.
        """
        reached = problem.objective(self.permutation)
        return MatchResult(
            method=method,
            permutation=settled(problem, self.permutation, reached),
            objective=(*first.objective[:1], reached),
            stop=self.stop,
            seed=first.seed,
            seconds=seconds,
            solves=first.solves + solves,
            losses=self.losses,
        )


def match_first(problem: Problem, resources: Resources, max_sweeps: int) -> MatchResult:
    """Weight matching, whose permutation is the first candidate of every search by a loss."""
    alone = Resources(device=resources.device, seed=resources.seed)
    return match_by_weights(problem, alone, WeightsOptions(max_sweeps=max_sweeps))


def search_by_loss(
    search: Search, first: MatchResult, problem: LossProblem, resources: Resources, *, epochs: int, patience: int
) -> Found:
    """Let a method make its steps, batches in random order, and keep the best it comes by.

    Args:
        first: weight matching's result, the first candidate.
        epochs: at most.
        patience: stop after this number of epochs whose new permutation was not better. Epochs that changed none do
            not count: at a small learning rate a search needs some to get anywhere.
        resources: `on_step` is called after each step with epoch, step, steps in an epoch and ⟨A, π(B)⟩ at first.
    """

    def judge(permutation: Permutation) -> float:
        return problem.held_out(midpoint(problem, permutation))

    on_step = resources.on_step
    permutation = present = first.permutation
    best = loss = judge(permutation)
    if first.stop == "nothing-to-move":
        return Found(permutation, (best,), first.stop)
    losses, since = [best], 0
    stop: Stop = "max-sweeps"
    generator = torch.Generator().manual_seed(resources.seed)
    for epoch in range(epochs):
        enough: Stop | None = None
        for step, batch in enumerate(torch.randperm(problem.batches, generator=generator).tolist()):
            search.step(batch)
            try:
                if on_step:
                    on_step(epoch, step + 1, problem.batches, first.objective[-1])
            except StopMatching as wish:
                enough = wish.stop
                break
        candidate = search.candidate()
        if not candidate.equals(present):
            present, loss = candidate, judge(candidate)
            since += 1
        losses.append(loss)
        if loss < best:
            best, permutation, since = loss, present, 0
        if enough or since >= patience:
            stop = enough or "converged"
            break
    return Found(permutation, tuple(losses), stop)


def midpoint(
    problem: Problem, permutation: Permutation, straight_through: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """½(A + π(B)) in float32; what has no midpoint is A's.

    Args:
        straight_through: by key, tensors that π(B) is differentiated as if it were.
    """
    layout = problem.layout
    moved = permuted(permutation, layout, problem.b)
    state: dict[str, Tensor] = {}
    for key in problem.a:
        one = problem.a[key]
        if layout.tensors[key].section == "ignored" or not one.is_floating_point():
            state[key] = one
            continue
        two = moved[key].float()
        theta = (straight_through or {}).get(key)
        if theta is not None:
            two = two + (theta - theta.detach())  # π(B)'s value and θ's gradient
        state[key] = 0.5 * (one.float() + two)
    return state
