"""The straight-through estimator (Git Re-Basin, arXiv:2209.04836, Algorithm 2): the permutation by the loss itself.

Free weights θ start at A. In every step B is projected onto θ by weight matching, started from the last projection;
the loss of the midpoint of A and π(B) is differentiated as if π(B) were θ. The best π, by the loss on examples that
no step has seen, is kept; the first candidate is that of weight matching.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from rebasin_cli.matching.measures import inner_product
from rebasin_cli.matching.result import Enough, MatchResult, Stop
from rebasin_cli.matching.weights import OnStep, match_weights
from rebasin_cli.permutation import Permutation, permuted
from rebasin_cli.spec import Layout

Loss = Callable[[Mapping[str, Tensor], int], Tensor]
"""The loss of a state on the batch of a step, differentiable."""


@dataclass(frozen=True, slots=True)
class SteOptions:
    """Hyper-parameters; the paper's for its MNIST network, but for the number of epochs (100).

    Attributes:
        steps: batches in an epoch.
        patience: stop after so many epochs whose new permutation was not better. Epochs that changed none do not
            count: at a small learning rate θ needs some to get anywhere.
    """

    steps: int
    epochs: int = 20
    learning_rate: float = 1e-2
    momentum: float = 0.9
    patience: int = 10


def match_ste(
    layout: Layout,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    loss: Loss,
    held_apart: Callable[[Mapping[str, Tensor]], float],
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
    search = _Search(layout, a, b, loss, options, device, first.permutation)
    best = present = held_apart(search.midpoint())
    permutation, losses, solves, since = first.permutation, [best], first.solves, 0
    stop: Stop = "max-sweeps" if first.stop != "nothing-to-move" else first.stop
    generator = torch.Generator().manual_seed(seed)
    objective = inner_product(layout, a, b, permutation)
    for epoch in range(options.epochs if first.stop != "nothing-to-move" else 0):
        measured = search.permutation
        order = torch.randperm(options.steps, generator=generator).tolist()
        enough: Stop | None = None
        for step, batch in enumerate(order):
            solves += search.step(batch, max_sweeps)
            try:
                if on_step:
                    on_step(epoch, step + 1, options.steps, objective)
            except Enough as wish:
                enough = wish.stop
                break
        if not search.permutation.equals(measured):
            present = held_apart(search.midpoint())
            since += 1
        losses.append(present)
        if present < best:
            best, permutation, since = present, search.permutation, 0
        if enough or since >= options.patience:
            stop = enough or "converged"
            break
    return MatchResult(
        method="ste",
        permutation=permutation,
        objective=(*first.objective[:1], inner_product(layout, a, b, permutation)),
        stop=stop,
        seed=seed,
        seconds={**search.seconds, "all": perf_counter() - began},
        solves=solves,
        losses=tuple(losses),
    )


class _Search:
    def __init__(
        self, layout: Layout, a: Mapping[str, Tensor], b: Mapping[str, Tensor], loss: Loss, options: SteOptions,
        device: str, permutation: Permutation,
    ) -> None:  # fmt: skip
        self.layout, self.a, self.b, self.loss, self.device = layout, a, b, loss, device
        self.permutation = permutation
        self.seconds = {"gradients": 0.0, "projections": 0.0}
        self.free = {
            key: a[key].detach().float().clone().requires_grad_()
            for key, bound in layout.tensors.items()
            if bound.section == "tensors" and a[key].is_floating_point()
        }
        self.optimizer = torch.optim.SGD(
            self.free.values(), lr=options.learning_rate, momentum=options.momentum
        )  # fmt: skip

    def midpoint(self, *, straight_through: bool = False) -> dict[str, Tensor]:
        """½(A + π(B)), with θ's gradient if wanted; what has no midpoint is A's."""
        moved = permuted(self.permutation, self.layout, self.b)
        state: dict[str, Tensor] = {}
        for key, one in self.a.items():
            if self.layout.tensors[key].section == "ignored" or not one.is_floating_point():
                state[key] = one
                continue
            two = moved[key].float()
            if straight_through and key in self.free:
                theta = self.free[key]
                two = two + (theta - theta.detach())  # of π(B)'s value and θ's gradient
            state[key] = 0.5 * (one.float() + two)
        return state

    def step(self, batch: int, max_sweeps: int) -> int:
        """One gradient step and the projection after it; how many assignments that took."""
        began = perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.midpoint(straight_through=True), batch).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        middle = perf_counter()
        theta = {key: self.free[key].detach() if key in self.free else tensor for key, tensor in self.a.items()}
        found = match_weights(
            self.layout, theta, self.b, start=self.permutation, max_sweeps=max_sweeps, device=self.device
        )
        self.permutation = found.permutation
        self.seconds["gradients"] += middle - began
        self.seconds["projections"] += perf_counter() - middle
        return found.solves
