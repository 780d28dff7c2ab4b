"""What methods share that move all plain dims together through doubly stochastic matrices: which, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rebasin_cli.matching.descent.settling import gains_nothing
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.problem import MatchResult, Problem, Resources, Stop, rising
from rebasin_cli.matching.similarity.blocks import blocks
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout


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
        before, reached = self.problem.objective(identity), self.problem.objective(rounded)
        options = WeightsOptions(start=rounded, max_sweeps=0 if early else self.max_sweeps)
        polished = match_by_weights(self.problem, self.resources, options)
        permutation, path = polished.permutation, (before, reached, *polished.objective[1:])
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
