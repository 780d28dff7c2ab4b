"""Frank-Wolfe: all dims move together, through doubly stochastic matrices (C2M3, arXiv:2405.17897, for a pair).

A piece of a tensor with two moving sides is bilinear in their permutations, so that ⟨A, π(B)⟩ is quadratic in all of
them together. Two things follow. The gradient at a mixture of permutations is the same mixture of their gradients, and
the gradient at a permutation is what descent computes anyway, the similarity of each dim with all others aligned: an
iteration costs one sweep of similarities and one assignment a dim, and no doubly stochastic matrix is ever multiplied.
And along the segment from X to a vertex V the objective is a parabola whose two coefficients are inner products
of gradients that are already there, so that the step is exact.

Dims with insides, and the smallest of three moving dims on one piece, stay at a permutation meanwhile; the descent
that polishes the rounded result moves them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rebasin_cli.matching.assignment.solve import Assignment, solve_assignment
from rebasin_cli.matching.descent.weights import Polishing, in_wide_enough_type, joint_dims, similarity_dtype
from rebasin_cli.matching.objective import paired_sum
from rebasin_cli.matching.options import STARTS, FrankWolfeOptions, RelaxedStart
from rebasin_cli.matching.portfolio import GRADIENTS, Attempt
from rebasin_cli.matching.problem import MatchResult, Problem, Resources, Stop, StopMatching
from rebasin_cli.matching.resources import budgets, free_memory
from rebasin_cli.matching.similarity.blocks import Block
from rebasin_cli.matching.similarity.contributions import Plan
from rebasin_cli.matching.similarity.matrices import Similarities
from rebasin_cli.permutation.gather import gather_piece, piece_view, source_key
from rebasin_cli.permutation.values import Permutation

TOLERANCE = 1e-4
"""The iterations end when the best vertex promises less than this share of the objective: what comes after rounding
and descent does not depend on more."""


def match_by_frank_wolfe(
    problem: Problem, resources: Resources = Resources(), options: FrankWolfeOptions = FrankWolfeOptions()
) -> MatchResult:
    """Match B's units to A's: Frank-Wolfe on all plain dims, rounding, then descent.

    The gradients come on top of `resources.memory`; an iteration counts as a sweep of one step.

    Returns:
        As `match_by_weights`; the objective is that of the identity, then that of the rounded mixture (if it is not
        lower), then after every sweep of the descent.
    """
    problem = problem.cached(resources.memory)
    polishing = Polishing(problem, resources, options.max_sweeps)
    held = polishing.held()
    relaxed = problem.without_signs()
    state, early = in_wide_enough_type(relaxed, lambda dtype: _mixed(relaxed, resources, options, held, dtype))
    return polishing.finish("frank-wolfe", state.rounded(), early, state.solvers, sum(state.seconds.values()))


def _mixed(
    problem: Problem, resources: Resources, options: FrankWolfeOptions, held: Permutation, dtype: torch.dtype
) -> tuple[_Mixture, Stop | None]:
    """The mixture where the iterations end, and why they ended early if they did."""
    place, matrices = torch.device(resources.device), budgets(resources.memory)[1]
    similarities = Similarities(problem, dtype, place, matrices, resources.executor)
    state = _Mixture({dim: Block(dim, (dim,)) for dim in joint_dims(problem.layout)}, similarities, held)
    state.begin(options.start)
    try:
        for iteration in range(options.max_iterations):
            if not state.step():
                break
            if resources.on_step:
                resources.on_step(iteration, 1, 1, state.value)
    except StopMatching as wish:
        return state, wish.stop
    return state, None


def frank_wolfe_attempts(
    problem: Problem, starts: Sequence[RelaxedStart] = STARTS, max_sweeps: int = 100
) -> list[Attempt]:
    """Frank-Wolfe from each start; none where no dims can move together, or their gradients
    would not fit into memory."""
    layout = problem.layout
    free = joint_dims(layout)
    size = similarity_dtype(problem.layout, problem.a).itemsize
    if not free or GRADIENTS * size * sum(layout.dims[dim].size ** 2 for dim in free) > free_memory():
        return []

    def attempt(start: RelaxedStart) -> Attempt:
        options = FrankWolfeOptions(start, max_sweeps=max_sweeps)
        return Attempt(f"frank-wolfe, {start}", partial(match_by_frank_wolfe, problem, options=options))

    return [attempt(start) for start in starts]


@dataclass(slots=True)
class _Mixture:
    """X = `even`·J/n + Σ `weights`[k]·`vertices`[k], and the gradient there, all dims alike.

    Attributes:
        held: permutations of the dims that do not take part.
        gradients: dim → ∇f (n, n); at_x: ⟨∇f, X⟩ summed over dims.
        value: the objective at X, once a step has `begun`.
    """

    free: Mapping[str, Block]
    similarities: Similarities
    held: Permutation
    even: float = 0.0
    weights: list[float] = field(default_factory=list)
    vertices: list[dict[str, Tensor]] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    at_x: float = 0.0
    value: float = 0.0
    begun: bool = False
    solvers: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"similarity": 0.0, "assignment": 0.0})
    _prices: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def begin(self, start: RelaxedStart) -> None:
        if start == "identity":
            vertex = {dim: torch.arange(len(self.held[dim])) for dim in self.free}
            self.weights, self.vertices = [1.0], [vertex]
            self.gradients = {d: self._similarity(d, self.held.replace(vertex)).clone() for d in self.free}
        else:
            self.even = 1.0
            self.gradients = {dim: self._even_gradient(block) for dim, block in self.free.items()}
        self.at_x = sum(self._along_x(self.gradients[dim], dim) for dim in self.free)

    def step(self) -> bool:
        """Go to the best point between X and the vertex that the gradient points at; False if there is no gain."""
        began = perf_counter()
        vertex = {dim: self._assign(dim, self.gradients[dim]) for dim in self.free}
        middle = perf_counter()
        self.seconds["assignment"] += middle - began
        gradient_v = sum(float(paired_sum(self.gradients[dim], vertex[dim])) for dim in self.free)
        slope = gradient_v - self.at_x
        if slope <= TOLERANCE * abs(self.at_x):
            return False
        there = self.held.replace(vertex)
        similar_v = similar_x = 0.0
        found: dict[str, Tensor] = {}
        for dim in self.free:
            # Where it is kept between visits the matrix is mended in place next time: used up before that.
            found[dim] = self._similarity(dim, there)
            similar_v += float(paired_sum(found[dim], vertex[dim]))
            similar_x += self._along_x(found[dim], dim)
        bend = 0.5 * (similar_v - similar_x - gradient_v + self.at_x)
        size = 1.0 if bend >= 0 else min(1.0, -slope / (2 * bend))
        for dim in self.free:
            self.gradients[dim].lerp_(found[dim], size)
        rest = 1.0 - size
        self.at_x = rest * rest * self.at_x + rest * size * (gradient_v + similar_x) + size * size * similar_v
        self.even *= rest
        kept = [(w * rest, v) for w, v in zip(self.weights, self.vertices, strict=True) if w * rest > 0]
        self.weights, self.vertices = [w for w, _ in kept] + [size], [v for _, v in kept] + [vertex]
        if not self.begun:  # from the vertex, whose objective the tensors tell, back to X
            source = self.similarities
            self.value = source.problem.objective(there) - slope - bend
            self.begun = True
        self.value += slope * size + bend * size * size
        self.seconds["similarity"] += perf_counter() - middle
        return True

    def rounded(self) -> Permutation:
        """The permutation nearest to X in every dim: the one that maximises ⟨P, X⟩."""
        if not self.vertices:
            return self.held
        return self.held.replace({dim: self._assign_once(self._matrix(dim)) for dim in self.free})

    def _matrix(self, dim: str) -> Tensor:
        n = len(self.vertices[0][dim])
        matrix = torch.full((n, n), self.even / n, dtype=torch.float64)
        rows = torch.arange(n)
        for weight, vertex in zip(self.weights, self.vertices, strict=True):
            matrix[rows, vertex[dim]] += weight
        return matrix

    def _along_x(self, matrix: Tensor, dim: str) -> float:
        """⟨matrix, X⟩ for one dim."""
        total = self.even * float(matrix.double().sum()) / len(matrix) if self.even else 0.0
        if self.vertices:
            there = torch.stack([vertex[dim] for vertex in self.vertices], 1).to(matrix.device)  # (n, vertices)
            total += float(
                matrix.gather(1, there).double().sum(0).cpu() @ torch.tensor(self.weights, dtype=torch.float64)
            )
        return total

    def _similarity(self, dim: str, permutation: Permutation) -> Tensor:
        return self.similarities.matrix(self.free[dim], permutation)

    def _even_gradient(self, block: Block) -> Tensor:
        """∇f at the barycentre: B's sides of the dims that take part averaged instead of aligned."""
        n = self.similarities.problem.layout.dims[block.root].size
        total = torch.zeros(n, n, dtype=self.similarities.dtype, device=self.similarities.device)
        for plan in self.similarities.plans(block):
            a, b = (self._spread(plan, which) for which in ("a", "b"))
            total.addmm_(a, b.T)
        return total

    def _spread(self, plan: Plan, which: Literal["a", "b"]) -> Tensor:
        """One side of a plan, (n, rest): A's summed and B's averaged over the other dims that take part."""
        source = self.similarities
        bound, piece = plan.bound, plan.piece
        tensor = source.problem.a[bound.key] if which == "a" else source.problem.b[source_key(self.held, bound)]
        view = piece_view(tensor.contiguous(), piece).to(device=source.device, dtype=source.dtype)
        free = [at for at in plan.others if piece.sides[at].dim in self.free]
        if which == "b":
            view = gather_piece(view, piece, self.held, bound.place, skip={plan.solved, *free})
        if free:
            view = view.sum(free, keepdim=True) if which == "a" else view.mean(free, keepdim=True)
        return view.movedim(plan.solved, 0).reshape(piece.sides[plan.solved].size, -1)  # (n, rest)

    def _assign(self, dim: str, matrix: Tensor) -> Tensor:
        found = self._solve(matrix, self._prices.get(dim))
        if found.prices is not None:
            self._prices[dim] = found.prices
        return torch.from_numpy(found.columns)

    def _assign_once(self, matrix: Tensor) -> Tensor:
        return torch.from_numpy(self._solve(matrix, None).columns)

    def _solve(self, matrix: Tensor, prices: NDArray[np.float64] | None) -> Assignment:
        found = solve_assignment(matrix, prices=prices)
        self.solvers[found.solver] = self.solvers.get(found.solver, 0) + 1
        return found
