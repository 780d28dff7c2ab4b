"""Re-basin by gradients: doubly stochastic matrices from Sinkhorn's iterations, moved by AdamW (Peña et al. 2022,
arXiv:2212.12042).

Every plain dim has a matrix of scores, whose doubly stochastic form stands in the place of its permutation. Three
losses lead it: the `distance` of A and X(B), and with data the loss of the network at their `midpoint` or at a `random`
point between them. At permutations ‖A − X(B)‖² and −2 ⟨A, X(B)⟩ differ by a constant; between them the first one is
lowest where X averages B's units towards zero, and what it is rounded to is worse (digits MLP: 92.9 of 99.2). So the
second stands for the distance. From the barycentre its minimum hardens by itself as the scores grow.

Dims with insides, and the smallest of three moving dims on one piece, stay where weight matching put them; the descent
that polishes the rounded result moves them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from math import log
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.matching.assignment import solve_assignment
from rebasin_cli.matching.by_loss import Epochs, HeldApart, Loss, midpoint, search_by_loss
from rebasin_cli.matching.doubly_stochastic import doubly_stochastic
from rebasin_cli.matching.measures import inner_product
from rebasin_cli.matching.memory import free_memory
from rebasin_cli.matching.relaxation import Polishing, joint_dims
from rebasin_cli.matching.restarts import Attempt
from rebasin_cli.matching.result import Enough, MatchResult, Stop
from rebasin_cli.matching.settling import settled
from rebasin_cli.matching.soft import Mixer, between
from rebasin_cli.matching.weights import OnStep, match_weights
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec import Layout

Target = Literal["distance", "midpoint", "random"]

RATE = 0.2
"""AdamW's learning rate: scores move by so much a step, and the logarithm of the number of units is far."""

STEPS = 200
FLAT, PATIENCE = 1e-4, 10
"""The steps of `distance` end when so many in a row have gained less than this share of the objective."""

CERTAINTY = 0.9
"""With data, scores begin where so much of each unit lies at its place by weight matching: a network of averaged units
tells nothing."""

COPIES = 12
"""Matrices of a dim, as float32, that are alive in a step: scores, moments, gradients, and the system in float64."""


def sinkhorn(
    layout: Layout,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    learning_rate: float = RATE,
    seed: int = 0,
    max_sweeps: int = 100,
    device: str = "cpu",
    memory: int | None = None,
    executor: Executor | None = None,
    on_step: OnStep | None = None,
) -> MatchResult:
    """Match B's units to A's by the distance: from the barycentre, rounded, then descent.

    Args:
        max_sweeps: of the descent that follows; memory, executor: for it; both networks are in memory meanwhile.
        on_step: called after each step, with ⟨A, X(B)⟩, and each step of the descent; it may raise `Enough`.

    Returns:
        As `match_weights`; the objective is that of the identity, then that of the rounded matrices (if it is not
        lower), then after every sweep of the descent.
    """
    began = perf_counter()
    a, b = ({key: state[key] for key in state} for state in (a, b))
    polishing = Polishing(layout, a, b, seed, max_sweeps, device, memory, executor, on_step)
    free, held = joint_dims(layout), polishing.held()
    if not free:
        return polishing.finish("sinkhorn", held, None, {}, 0.0)
    place = torch.device(device)
    relaxed = _Relaxed(Mixer(layout, b, free, held, place), free, learning_rate)
    early = _descend(relaxed, Mixer(layout, a, free, Permutation({}), place), on_step)
    rounded = relaxed.candidate()
    return polishing.finish("sinkhorn", rounded, early, relaxed.solvers, perf_counter() - began)


def sinkhorn_attempts(
    layout: Layout,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    learning_rate: float = RATE,
    seed: int = 0,
    max_sweeps: int = 100,
    device: str = "cpu",
    memory: int | None = None,
) -> list[Attempt]:
    """Sinkhorn by the distance; none where no dims can move together, or what it holds would not fit into memory."""
    if not fits(layout, copies=2):
        return []

    def run(on_step: OnStep | None, executor: Executor | None = None) -> MatchResult:
        return sinkhorn(
            layout, a, b, learning_rate=learning_rate, seed=seed, max_sweeps=max_sweeps, device=device,
            memory=memory, executor=executor, on_step=on_step,
        )  # fmt: skip

    return [Attempt("sinkhorn, barycentre", run)]


def match_sinkhorn(
    layout: Layout,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    loss: Loss,
    held_apart: HeldApart,
    length: Epochs,
    *,
    target: Target = "midpoint",
    learning_rate: float = RATE,
    seed: int = 0,
    max_sweeps: int = 100,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> MatchResult:
    """Match B to A by the loss of the network between A and X(B).

    Args:
        loss: of a state on the batch of a step; gradients flow through it.
        held_apart: the loss of a state on examples that `loss` never sees; lower is better.
        target: `midpoint`, or `random`, another λ in every step.
        on_step: called after each step; it may raise `Enough`.

    Returns:
        The permutation with the lowest loss held apart, that of weight matching among them. `losses` are those of the
        midpoint, at the start and after every epoch.

    Raises:
        ContentError: no dims can move together, or memory does not hold the networks and matrices.
    """
    if not fits(layout, copies=6):
        raise ContentError(
            f"Sinkhorn mixes units of {layout.spec.name}: no dims can be mixed, or memory does not hold the matrices",
            remedy="--method ste searches by the loss with permutations alone",
        )
    began = perf_counter()
    a, b = ({key: state[key] for key in state} for state in (a, b))
    first = match_weights(layout, a, b, seed=seed, max_sweeps=max_sweeps, device=device)
    free = joint_dims(layout)
    mixer = Mixer(layout, b, free, first.permutation, torch.device(device), buffers=True)
    search = _ByLoss(a, _Relaxed(mixer, free, learning_rate, certainty=CERTAINTY), loss, target, seed)
    found = search_by_loss(
        search, first, lambda permutation: held_apart(midpoint(layout, a, b, permutation)),
        length, seed=seed, on_step=on_step,
    )  # fmt: skip
    reached = inner_product(layout, a, b, found.permutation)
    permutation = settled(layout, a, b, found.permutation, reached)
    return MatchResult(
        method="sinkhorn",
        permutation=permutation,
        objective=(*first.objective[:1], reached),
        stop=found.stop,
        seed=seed,
        seconds={"sinkhorn": perf_counter() - began},
        solves=first.solves + sum(search.relaxed.solvers.values()),
        losses=found.losses,
    )


def fits(layout: Layout, copies: int) -> bool:
    """Whether some dims can move together, and memory holds their matrices and so many copies of the network."""
    free = joint_dims(layout)
    matrices = COPIES * sum(layout.dims[dim].size ** 2 for dim in free)
    network = sum(piece.elements for bound in layout.tensors.values() for piece in bound.pieces)
    return bool(free) and 4 * (matrices + copies * network) < free_memory()


class _Relaxed:
    """One matrix of scores a dim, and AdamW over all of them.

    Args:
        certainty: how much of each unit lies where `mixer.held` puts it, at first; None for the barycentre.
    """

    def __init__(
        self, mixer: Mixer, free: tuple[str, ...], learning_rate: float, certainty: float | None = None
    ) -> None:
        self.mixer, self.free = mixer, free
        self.solvers: dict[str, int] = {}
        self.scores = {dim: self._start(dim, certainty).requires_grad_() for dim in free}
        self.optimizer = torch.optim.AdamW(list(self.scores.values()), lr=learning_rate)
        self._columns: dict[str, Tensor] = {}

    def _start(self, dim: str, certainty: float | None) -> Tensor:
        n = self.mixer.layout.dims[dim].size
        scores = torch.zeros(n, n, device=self.mixer.device)
        if certainty is not None and n > 1:
            scores[torch.arange(n), self.mixer.held[dim]] = log(certainty / (1 - certainty) * (n - 1))
        return scores

    def matrices(self) -> dict[str, Tensor]:
        """Dim → its doubly stochastic matrix; gradients flow into the scores."""
        found = {}
        for dim, scores in self.scores.items():
            found[dim], columns = doubly_stochastic(scores, self._columns.get(dim))
            self._columns[dim] = columns.detach()
        return found

    def step(self, loss: Callable[[Mapping[str, Tensor]], Tensor]) -> float:
        """One step down a loss of the matrices; its value before."""
        self.optimizer.zero_grad(set_to_none=True)
        value = loss(self.matrices())
        value.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(value.detach())

    def candidate(self) -> Permutation:
        """The permutation nearest to the matrices in every dim: the one that maximises ⟨P, X⟩."""
        found = {}
        with torch.no_grad():
            for dim, matrix in self.matrices().items():
                solved = solve_assignment(matrix)
                self.solvers[solved.solver] = self.solvers.get(solved.solver, 0) + 1
                found[dim] = torch.from_numpy(solved.columns)
        return self.mixer.held.replace(found)


def _descend(relaxed: _Relaxed, a: Mixer, on_step: OnStep | None) -> Stop | None:
    """Steps down the distance until it is flat; why it ended, if it was told to."""

    def loss(matrices: Mapping[str, Tensor]) -> Tensor:
        """−⟨A, X(B)⟩ over all that is mixed."""
        pairs = zip(a.pieces(), relaxed.mixer.pieces(), strict=True)
        return -torch.stack([(one.view * two.mixed(matrices)).sum() for one, two in pairs]).sum()

    best, since = 0.0, 0
    try:
        for step in range(STEPS):
            value = -relaxed.step(loss)
            since = 0 if step == 0 or value > best + FLAT * abs(best) else since + 1
            best = value if step == 0 else max(value, best)
            if since >= PATIENCE:
                break
            if on_step:
                on_step(step, 1, 1, value)
    except Enough as wish:
        return wish.stop
    return None


class _ByLoss:
    """The search by the network's loss between A and X(B)."""

    def __init__(self, a: Mapping[str, Tensor], relaxed: _Relaxed, loss: Loss, target: Target, seed: int) -> None:
        self.a, self.relaxed, self.loss, self.target = a, relaxed, loss, target
        self.generator = torch.Generator().manual_seed(seed)

    def step(self, batch: int) -> None:
        lam = 0.5 if self.target == "midpoint" else float(torch.rand((), generator=self.generator))
        self.relaxed.step(lambda matrices: self.loss(between(self.a, self.relaxed.mixer, matrices, lam), batch))

    def candidate(self) -> Permutation:
        return self.relaxed.candidate()
