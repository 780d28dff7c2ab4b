"""What methods share that move all plain dims together through doubly stochastic matrices: which, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

from torch import Tensor

from rebasin_cli.matching.measures import inner_product
from rebasin_cli.matching.result import MatchResult, Stop, rising
from rebasin_cli.matching.settling import no_more_than_identity
from rebasin_cli.matching.terms import blocks
from rebasin_cli.matching.weights import OnStep, match_weights
from rebasin_cli.permutation import Permutation
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
    """The descents before and after a relaxation; the fields are the arguments of `match_weights`."""

    layout: Layout
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    seed: int
    max_sweeps: int
    device: str
    memory: int | None
    executor: Executor | None
    on_step: OnStep | None
    _solvers: dict[str, int] = field(default_factory=dict)

    def held(self) -> Permutation:
        """Where everything begins: the identity, unless there are dims that the relaxation does not move, which then
        should be where they belong."""
        if set(joint_dims(self.layout)) == set(self.layout.moving()):
            return Permutation.identity(self.layout)
        first = match_weights(
            self.layout, self.a, self.b, max_sweeps=self.max_sweeps, device=self.device, memory=self.memory,
            executor=self.executor,
        )  # fmt: skip
        self._solvers = dict(first.solvers)
        return first.permutation

    def finish(
        self, method: str, rounded: Permutation, early: Stop | None, solvers: Mapping[str, int], seconds: float
    ) -> MatchResult:
        """Descend from the rounded permutation, unless the relaxation was told to stop.

        Args:
            solvers, seconds: of the relaxation.

        Returns:
            As `match_weights`; the objective is that of the identity, then that of the rounded permutation (if it is
            not lower), then after every sweep. It is the identity where nothing is above it.
        """
        before, reached = (
            inner_product(self.layout, self.a, self.b, permutation)
            for permutation in (Permutation.identity(self.layout), rounded)
        )
        polished = match_weights(
            self.layout, self.a, self.b, seed=self.seed, start=rounded, max_sweeps=0 if early else self.max_sweeps,
            device=self.device, memory=self.memory, executor=self.executor, on_step=self.on_step,
        )  # fmt: skip
        permutation, path = polished.permutation, (before, reached, *polished.objective[1:])
        if no_more_than_identity(self.layout, self.a, self.b, permutation, path[-1], before):
            permutation, path = Permutation.identity(self.layout), (before, before)
        total = {
            name: sum(part.get(name, 0) for part in (self._solvers, solvers, polished.solvers))
            for name in {**self._solvers, **solvers, **polished.solvers}
        }
        return MatchResult(
            method=method,
            permutation=permutation,
            objective=rising(path),
            stop=early or polished.stop,
            seed=self.seed,
            seconds={**polished.seconds, method: seconds},
            solves=sum(total.values()),
            solvers=total,
            gap=polished.gap,
        )
