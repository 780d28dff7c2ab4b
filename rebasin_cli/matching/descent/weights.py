"""Weight matching by coordinate descent (Git Re-Basin, arXiv:2209.04836, Algorithm 1), on blocks.

Each step solves one block exactly with all others held, so that ⟨A, π(B)⟩ never falls; it ends after a sweep that
gained nothing. A block is visited again only after one that shares a tensor with it has changed: the step would
find what it found before. `reference` has the plain loop.

`Polishing` is what relaxations make of it: the descents before and after one that moves all plain dims together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from rebasin_cli.matching.assignment.solve import NotFiniteError
from rebasin_cli.matching.descent.settling import gains_nothing, is_tie, settled
from rebasin_cli.matching.descent.sweep import Descent
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.problem import MatchResult, Problem, Resources, State, Stop, is_small, rising
from rebasin_cli.matching.resources import budgets, reading_seconds
from rebasin_cli.matching.similarity.blocks import blocks
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout


def match_by_weights(
    problem: Problem, resources: Resources = Resources(), options: WeightsOptions = WeightsOptions()
) -> MatchResult:
    """Match B's units to A's by their weights.

    Returns:
        The permutation and the objective per sweep. It is a local optimum: another start or order may end elsewhere.
        Units that gain nothing by moving are in their own places, and where none does it is the identity.
    """
    problem = problem.cached(resources.memory)
    return in_wide_enough_type(problem, lambda dtype: _match(problem, resources, options, dtype))


def _match(problem: Problem, resources: Resources, options: WeightsOptions, dtype: torch.dtype) -> MatchResult:
    start = options.start
    begin = start if isinstance(start, Permutation) else Permutation.identity(problem.layout)
    already = reading_seconds(problem.a, problem.b)
    matrices = budgets(resources.memory)[1]
    place = torch.device(resources.device)
    descent = Descent(problem, begin, dtype, place, matrices, resources.executor)
    objective = [descent.objective()]
    if start == "anchored" and descent.blocks:
        objective.append(descent.anchor())
    stop = _descend(descent, objective, resources, options)
    permutation = settled(problem, descent.permutation, objective[-1])
    if dtype != torch.float64:  # gains were summed up from similarities in float32
        objective[-1] = descent.objective(permutation)
    if not isinstance(start, Permutation) and gains_nothing(objective[-1], objective[0]):
        if start == "anchored" and not is_tie(objective[-1], objective[0]):  # led astray: from there it cannot fall
            return _match(problem, resources, replace(options, start="identity"), dtype)
        permutation, objective = begin, [objective[0]] * len(objective)
    return MatchResult(
        method="weights",
        permutation=permutation,
        objective=rising(objective),
        stop=stop,
        seed=resources.seed,
        seconds={"read": reading_seconds(problem.a, problem.b) - already, **descent.seconds},
        solves=sum(descent.solvers.values()),
        solvers=dict(descent.solvers),
        gap=descent.gap,
    )


def _descend(descent: Descent, objective: list[float], resources: Resources, options: WeightsOptions) -> Stop:
    """Sweep until nothing is gained; adds what each sweep has reached to `objective`, and says why it ended."""
    blocks = descent.blocks
    if not blocks:
        return "nothing-to-move"
    generator = torch.Generator().manual_seed(resources.seed)
    on_step = resources.on_step
    for sweep in range(options.max_sweeps):
        order = list(range(len(blocks)))
        if options.order == "random":
            order = torch.randperm(len(blocks), generator=generator).tolist()
        reached = objective[-1]

        def on_visit(done: int, gained: float, sweep: int = sweep, reached: float = reached) -> None:
            if on_step:
                on_step(sweep, done, len(blocks), reached + gained)

        gained, enough = descent.sweep([blocks[which] for which in order], on_visit)
        objective.append(reached + gained)
        if enough or gained == 0.0:
            return enough or "converged"
    return "max-sweeps"


T = TypeVar("T")


def in_wide_enough_type(problem: Problem, run: Callable[[torch.dtype], T]) -> T:
    """Run with similarities of the usual type, and where products overflow that, in float64."""
    dtype = similarity_dtype(problem.layout, problem.a)
    try:
        return run(dtype)
    except NotFiniteError:
        if dtype == torch.float64:
            raise
    return run(torch.float64)


def similarity_dtype(layout: Layout, a: State) -> torch.dtype:
    """The type of the similarities."""
    if is_small(layout):
        return torch.float64
    first = next(bound.key for bound in layout.tensors.values() if bound.section == "tensors")
    return torch.float64 if a[first].dtype == torch.float64 else torch.float32


def joint_dims(layout: Layout) -> tuple[str, ...]:
    """The dims that can move together: those without insides, never more than two sides of them on one piece."""
    acting = {bound.index_dim for bound in layout.tensors.values()}
    free = {block.root for block in blocks(layout) if len(block.dims) == 1 and block.root not in acting}
    for bound in layout.tensors.values():
        for piece in bound.pieces if bound.section == "tensors" else ():
            while sum(side.dim in free for side in piece.sides) > 2:
                here = [str(side.dim) for side in piece.sides if side.dim in free]
                free.discard(min(here, key=lambda dim: layout.dims[dim].size))
    return tuple(dim for dim in layout.dims if dim in free)


@dataclass(slots=True)
class Polishing:
    """The descents before and after a relaxation, which permutes alone: signs are for the descent after it."""

    problem: Problem
    resources: Resources
    max_sweeps: int
    _solvers: dict[str, int] = field(default_factory=dict)

    def held(self) -> Permutation:
        """Where everything begins: the identity, unless there are dims that the relaxation does not move, which then
        should be where they belong."""
        layout = self.problem.layout
        if set(joint_dims(layout)) == set(layout.moving()):
            return Permutation.identity(layout)
        quiet = replace(self.resources, on_step=None)
        first = match_by_weights(self.problem.without_signs(), quiet, WeightsOptions(max_sweeps=self.max_sweeps))
        self._solvers = dict(first.solvers)
        return first.permutation

    def finish(
        self, method: str, rounded: Permutation, early: Stop | None, solvers: Mapping[str, int], seconds: float
    ) -> MatchResult:
        """Descend from the rounded permutation, unless the relaxation was told to stop.

        Args:
            solvers, seconds: of the relaxation.

        Returns:
            As `match_by_weights`; the objective is that of the identity, then that of the rounded permutation (if it is
            not lower), then after every sweep. It is the identity where nothing is above it.
        """
        identity = Permutation.identity(self.problem.layout)
        before = self.problem.objective(identity)
        options = WeightsOptions(start=rounded, max_sweeps=0 if early else self.max_sweeps)
        polished = match_by_weights(self.problem, self.resources, options)
        permutation, path = polished.permutation, (before, *polished.objective)
        if gains_nothing(path[-1], before):
            permutation, path = identity, (before, before)
        total = {
            name: sum(part.get(name, 0) for part in (self._solvers, solvers, polished.solvers))
            for name in {**self._solvers, **solvers, **polished.solvers}
        }
        return MatchResult(
            method=method,
            permutation=permutation,
            objective=rising(path),
            stop=early or polished.stop,
            seed=self.resources.seed,
            seconds={**polished.seconds, method: seconds},
            solves=sum(total.values()),
            solvers=total,
            gap=polished.gap,
        )
