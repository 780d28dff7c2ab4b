"""The straight-through estimator (Git Re-Basin, arXiv:2209.04836, Algorithm 2): the permutation by the loss itself.

Free weights θ start at A. In every step B is projected onto θ by weight matching, started from the last projection;
the loss of the midpoint of A and π(B) is differentiated as if π(B) were θ. The best π, by the loss on examples that
no step has seen, is kept; the first candidate is that of weight matching.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from rebasin_cli.matching.data.held_out import match_first, midpoint, search_by_loss
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.options import SteOptions, WeightsOptions
from rebasin_cli.matching.problem import LossProblem, MatchResult, Problem, Resources
from rebasin_cli.permutation.values import Permutation


def match_by_straight_through(
    problem: LossProblem, resources: Resources = Resources(), options: SteOptions = SteOptions()
) -> MatchResult:
    """Match B to A by the loss between them.

    Returns:
        The permutation with the lowest loss held out. `losses` are those of the midpoint, at the start and after
        every epoch: of the permutation that the epoch ended with, not of the best one.
    """
    began = perf_counter()
    problem = problem.loaded()
    first = match_first(problem, resources, options.max_sweeps)
    search = _Search(problem, options, resources.device, first.permutation)
    found = search_by_loss(search, first, problem, resources, epochs=options.epochs, patience=options.patience)
    return found.result("ste", problem, first, search.solves, {**search.seconds, "all": perf_counter() - began})


@dataclass(slots=True)
class _Search:
    problem: LossProblem
    options: SteOptions
    device: str
    permutation: Permutation
    solves: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"gradients": 0.0, "projections": 0.0})
    free: dict[str, Tensor] = field(init=False)
    optimizer: torch.optim.SGD = field(init=False)

    def __post_init__(self) -> None:
        a = self.problem.a
        self.free = {
            key: a[key].detach().float().clone().requires_grad_()
            for key, bound in self.problem.layout.tensors.items()
            if bound.section == "tensors" and a[key].is_floating_point()
        }
        self.optimizer = torch.optim.SGD(
            self.free.values(), lr=self.options.learning_rate, momentum=self.options.momentum
        )  # fmt: skip

    def candidate(self) -> Permutation:
        return self.permutation

    def step(self, batch: int) -> None:
        """One gradient step and the projection after it."""
        problem = self.problem
        began = perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        state = midpoint(problem, self.permutation, self.free)
        problem.loss(state, batch).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        middle = perf_counter()
        theta = {key: self.free[key].detach() if key in self.free else tensor for key, tensor in problem.a.items()}
        options = WeightsOptions(start=self.permutation, max_sweeps=self.options.max_sweeps)
        found = match_by_weights(Problem(problem.layout, theta, problem.b), Resources(self.device), options)
        self.permutation = found.permutation
        self.solves += found.solves
        self.seconds["gradients"] += middle - began
        self.seconds["projections"] += perf_counter() - middle
