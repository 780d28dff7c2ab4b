"""The straight-through estimator (Git Re-Basin, arXiv:2209.04836, Algorithm 2): the permutation by the loss itself.

Free weights θ start at A. In every step B is projected onto θ by weight matching, started from the last projection;
the loss of the midpoint of A and π(B) is differentiated as if π(B) were θ. The best π, by the loss on examples that
no step has seen, is kept; the first candidate is that of weight matching.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from rebasin_cli.matching.by_loss import Epochs, HeldApart, Loss, midpoint, search_by_loss
from rebasin_cli.matching.measures import inner_product
from rebasin_cli.matching.result import MatchResult
from rebasin_cli.matching.settling import settled
from rebasin_cli.matching.weights import OnStep, match_weights
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec import Layout

RATE = 1e-2
"""The paper's learning rate for its MNIST network."""


@dataclass(frozen=True, slots=True)
class SteOptions:
    """Hyper-parameters; the paper's for its MNIST network, but for the number of epochs (100)."""

    length: Epochs
    learning_rate: float = RATE
    momentum: float = 0.9


def match_ste(
    layout: Layout,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    loss: Loss,
    held_apart: HeldApart,
    options: SteOptions,
    *,
    seed: int = 0,
    max_sweeps: int = 100,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> MatchResult:
    """Match B to A by the loss between them.

    Args:
        loss: of a state on the batch of a step; gradients flow through it.
        held_apart: the loss of a state on examples that `loss` never sees; lower is better.
        on_step: called after each step with epoch, step, steps in an epoch and ⟨A, π(B)⟩; it may raise `Enough`.

    Returns:
        The permutation with the lowest loss held apart. `losses` are those of the midpoint, at the start and after
        every epoch: of the permutation that the epoch ended with, not of the best one.
    """
    began = perf_counter()
    a = {key: a[key] for key in a}
    b = {key: b[key] for key in b}
    first = match_weights(layout, a, b, seed=seed, max_sweeps=max_sweeps, device=device)
    search = _Search(layout, a, b, loss, options, max_sweeps, device, first.permutation)
    found = search_by_loss(
        search, first, lambda permutation: held_apart(midpoint(layout, a, b, permutation)), options.length,
        seed=seed, on_step=on_step,
    )  # fmt: skip
    reached = inner_product(layout, a, b, found.permutation)
    permutation = settled(layout, a, b, found.permutation, reached)
    return MatchResult(
        method="ste",
        permutation=permutation,
        objective=(*first.objective[:1], reached),
        stop=found.stop,
        seed=seed,
        seconds={**search.seconds, "all": perf_counter() - began},
        solves=first.solves + search.solves,
        losses=found.losses,
    )


@dataclass(slots=True)
class _Search:
    layout: Layout
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    loss: Loss
    options: SteOptions
    max_sweeps: int
    device: str
    permutation: Permutation
    solves: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"gradients": 0.0, "projections": 0.0})
    free: dict[str, Tensor] = field(init=False)
    optimizer: torch.optim.SGD = field(init=False)

    def __post_init__(self) -> None:
        self.free = {
            key: self.a[key].detach().float().clone().requires_grad_()
            for key, bound in self.layout.tensors.items()
            if bound.section == "tensors" and self.a[key].is_floating_point()
        }
        self.optimizer = torch.optim.SGD(
            self.free.values(), lr=self.options.learning_rate, momentum=self.options.momentum
        )  # fmt: skip

    def candidate(self) -> Permutation:
        return self.permutation

    def step(self, batch: int) -> None:
        """One gradient step and the projection after it."""
        began = perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        state = midpoint(self.layout, self.a, self.b, self.permutation, self.free)
        self.loss(state, batch).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        middle = perf_counter()
        theta = {key: self.free[key].detach() if key in self.free else tensor for key, tensor in self.a.items()}
        found = match_weights(
            self.layout, theta, self.b, start=self.permutation, max_sweeps=self.max_sweeps, device=self.device
        )
        self.permutation = found.permutation
        self.solves += found.solves
        self.seconds["gradients"] += middle - began
        self.seconds["projections"] += perf_counter() - middle
