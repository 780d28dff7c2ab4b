"""What every matching method takes: the problem, the resources that it may use, and options of its own.

    match_by_weights(Problem(layout, a, b), Resources(seed=1), WeightsOptions(start="identity"))

Options of all methods stand in `options`, with their defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor

from rebasin_cli.hooks import Taps
from rebasin_cli.matching.cache import budgets, keep_read
from rebasin_cli.matching.objective import inner_product
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout

State = Mapping[str, Tensor]
"""Tensors by key; may be lazy, and is never modified."""

OnStep = Callable[[int, int, int, float], None]
"""Called with sweep, step, steps in a sweep, and the objective; it may raise `StopMatching`."""


PairRun = Callable[[Taps, Taps], None]
"""Runs both networks over all examples, batch by batch: A with the first taps, then B with the second ones."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Two networks of one layout; B's units are to be matched to A's."""

    layout: Layout
    a: State
    b: State

    def objective(
        self, permutation: Permutation, keys: Collection[str] | None = None, executor: Executor | None = None
    ) -> float:
        """⟨A, π(B)⟩ in float64, over the tensors of the objective or those of them in `keys`."""
        return inner_product(self.layout, self.a, self.b, permutation, keys, executor=executor)

    def without_signs(self) -> Self:
        """The same problem in which no unit may have its sign turned."""
        return replace(self, layout=self.layout.without_signs())

    def cached(self, memory: int | None) -> Self:
        """The same problem, where tensors of lazy sources are kept once they are read, as far as `memory` goes."""
        budget = budgets(memory)[0]
        return replace(self, a=keep_read(self.a, budget), b=keep_read(self.b, budget))

    def loaded(self) -> Self:
        """The same problem with all tensors in memory."""
        return replace(self, a={key: self.a[key] for key in self.a}, b={key: self.b[key] for key in self.b})


@dataclass(frozen=True, slots=True)
class LossProblem(Problem):
    """A problem with examples, for methods that search by a loss.

    Attributes:
        loss: of a state on one of the batches, differentiable.
        held_out: the loss of a state on examples that `loss` never sees; lower is better.
        batches: how many there are.
    """

    loss: Callable[[State, int], Tensor]
    held_out: Callable[[State], float]
    batches: int


@dataclass(frozen=True, slots=True)
class ActivationProblem(Problem):
    """A problem with both networks to be run side by side.

    Attributes:
        run: runs both over all examples.
        prefix: what stands before the names of the networks' layers in the keys.
        modules: dim → module whose output counts its units, instead of what layers read along the dim.
    """

    run: PairRun
    prefix: str = ""
    modules: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a match may use, and whom it tells.

    Attributes:
        device: where similarities are made and networks run.
        memory: bytes to keep between steps, in tensors of lazy sources and in similarity matrices; None for at most
            512 MiB.
        executor: takes work that is independent of other work; the result does not depend on it.
        at_once: matches that may run side by side, where there are several.
        seed: of everything random.
        on_step: called after each step.
    """

    device: str = "cpu"
    memory: int | None = None
    executor: Executor | None = None
    at_once: int = 1
    seed: int = 0
    on_step: OnStep | None = None
