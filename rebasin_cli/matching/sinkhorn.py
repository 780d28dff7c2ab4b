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
from functools import partial
from math import log
from time import perf_counter

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.matching.assignment.solve import solve_assignment
from rebasin_cli.matching.data.held_out import match_first, search_by_loss
from rebasin_cli.matching.descent.weights import Polishing, joint_dims
from rebasin_cli.matching.doubly_stochastic import Mixer, between, doubly_stochastic
from rebasin_cli.matching.options import SinkhornLossOptions, SinkhornOptions
from rebasin_cli.matching.portfolio import Attempt
from rebasin_cli.matching.problem import LossProblem, MatchResult, OnStep, Problem, Resources, Stop, StopMatching
from rebasin_cli.matching.resources import free_memory
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout

STEPS = 200
FLAT, PATIENCE = 1e-4, 10
"""The steps of `distance` end when `PATIENCE` in a row have gained less than this share of the objective."""

CERTAINTY = 0.9
"""With data, scores begin where so much of each unit lies at its place by weight matching: a network of averaged units
tells nothing."""

COPIES = 12
"""Matrices of a dim, as float32, that are alive in a step: scores, moments, gradients, and the system in float64."""


def match_by_sinkhorn(
    problem: Problem, resources: Resources = Resources(), options: SinkhornOptions = SinkhornOptions()
) -> MatchResult:
    """Match B's units to A's by the distance: from the barycentre, rounded, then descent.

    Both networks are in memory meanwhile. A step counts as a sweep of one step, with ⟨A, X(B)⟩.

    Returns:
        As `match_by_weights`; the objective is that of the identity, then that of the rounded matrices (if it is not
        lower), then after every sweep of the descent.
    """
    began = perf_counter()
    problem = problem.loaded()
    polishing = Polishing(problem, resources, options.max_sweeps)
    layout = problem.layout
    free, held = joint_dims(layout), polishing.held()
    if not free:
        return polishing.finish("sinkhorn", held, None, {}, 0.0)
    place = torch.device(resources.device)
    relaxed = _Relaxed(Mixer(layout, problem.b, free, held, place), free, options.learning_rate)
    early = _descend(relaxed, Mixer(layout, problem.a, free, Permutation({}), place), resources.on_step)
    rounded = relaxed.candidate()
    return polishing.finish("sinkhorn", rounded, early, relaxed.solvers, perf_counter() - began)


def sinkhorn_attempts(problem: Problem, options: SinkhornOptions = SinkhornOptions()) -> list[Attempt]:
    """Sinkhorn by the distance; none where no dims can move together, or what it holds would not fit into memory."""
    if not fits(problem.layout, copies=2):
        return []
    return [Attempt("sinkhorn, barycentre", partial(match_by_sinkhorn, problem, options=options))]


def match_by_sinkhorn_loss(
    problem: LossProblem,
    resources: Resources = Resources(),
    options: SinkhornLossOptions = SinkhornLossOptions("midpoint"),
) -> MatchResult:
    """Match B's units to A's by the loss of networks between them.

    Returns:
        The permutation with the lowest loss held out, that of weight matching among them. `losses` are those of the
        midpoint, at the start and after every epoch.

    Raises:
        ContentError: no dims can move together, or memory does not hold the networks and matrices.
    """
    layout = problem.layout
    if not fits(layout, copies=6):
        raise ContentError(
            f"Sinkhorn mixes units of {layout.spec.name}: no dims can be mixed, or memory does not hold the matrices",
            remedy="--method ste searches by the loss with permutations alone",
        )
    began = perf_counter()
    problem = problem.loaded()
    first = match_first(problem, resources, options.max_sweeps)
    free = joint_dims(layout)
    mixer = Mixer(layout, problem.b, free, first.permutation, torch.device(resources.device), buffers=True)
    relaxed = _Relaxed(mixer, free, options.learning_rate, certainty=CERTAINTY)
    search = _ByLoss(problem, relaxed, options.objective, resources.seed)
    found = search_by_loss(search, first, problem, resources, epochs=options.epochs, patience=options.patience)
    solves = sum(search.relaxed.solvers.values())
    return found.result("sinkhorn", problem, first, solves, {"sinkhorn": perf_counter() - began})


def fits(layout: Layout, copies: int) -> bool:
    """Whether some dims can move together, and memory holds their matrices and some copies of the network."""
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
    except StopMatching as wish:
        return wish.stop
    return None


class _ByLoss:
    """The search by the network's loss between A and X(B)."""

    def __init__(self, problem: LossProblem, relaxed: _Relaxed, target: str, seed: int) -> None:
        self.problem, self.relaxed, self.target = problem, relaxed, target
        self.generator = torch.Generator().manual_seed(seed)

    def step(self, batch: int) -> None:
        lam = 0.5 if self.target == "midpoint" else float(torch.rand((), generator=self.generator))
        a, mixer, loss = self.problem.a, self.relaxed.mixer, self.problem.loss
        self.relaxed.step(lambda matrices: loss(between(a, mixer, matrices, lam), batch))

    def candidate(self) -> Permutation:
        return self.relaxed.candidate()
