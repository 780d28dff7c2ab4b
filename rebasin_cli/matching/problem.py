"""What every matching method takes and returns: problem, resources, options of its own; result.

    match_by_weights(Problem(layout, a, b), Resources(seed=1), WeightsOptions(start="identity"))

Options of all methods stand in `options`, with their defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.resources import budgets, keep_read, keep_wide
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout, Piece, Side

if TYPE_CHECKING:  # what runs a network has taps, and most methods run none
    from rebasin_cli.hooks import PairRun

Stop = Literal["converged", "max-sweeps", "nothing-to-move", "time", "interrupted"]


class StopMatching(Exception):  # noqa: N818  (no error: the wish to stop here)
    """Raised by a progress callback to end a match early: the method returns the best it has so far.

    Args:
        stop: why, as `MatchResult.stop` will say.
    """

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop)
        self.stop: Stop = stop


@dataclass(frozen=True, slots=True)
class Trial:
    """One of several starts.

    Attributes:
        name: where it started and in what order it went, such as `identity, random order, seed 3`.
        objective: ⟨A, π(B)⟩ at its end.
        seconds: wall time.
        kept: whether the result is its.
    """

    name: str
    objective: float
    seconds: float
    kept: bool = False


@dataclass(frozen=True, slots=True)
class MatchResult:
    """A permutation of B's units, and how it was found.

    Attributes:
        method: name of the method, as `--method` has it.
        objective: ⟨A, π(B)⟩ over the spec's `tensors`: at the start (the identity, unless a search was told to begin
            elsewhere), then after every sweep; float64, never falling (but see `match_activations`).
        stop: why it ended.
        seconds: wall time by phase.
        solves: assignments solved, the inner ones of heads and groups included.
        solvers: how many of them each solver did; gap: the largest certified distance from the optimum of one.
        trials: every start that was tried, in order, if there were several; the rest is of the one that is kept, but
            for `seconds`, `solves` and `solvers`, which are of all.
        losses: loss between A and π(B), at the start and as the search went on, of a method that looks at it.
        notes: what whoever reads the result must know.
    """

    method: str
    permutation: Permutation
    objective: tuple[float, ...]
    stop: Stop
    seed: int
    seconds: Mapping[str, float]
    solves: int
    solvers: Mapping[str, int] = field(default_factory=dict)
    gap: float | None = None
    trials: tuple[Trial, ...] = ()
    losses: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


def rising(objective: Sequence[float]) -> tuple[float, ...]:
    """The objective at the start, after what came above it meanwhile, and at the end.

    A first pass by a part of the tensors, or a rounded mixture, may lie below the start for a while; and what was
    summed up from gains in float32 may lie above the end by rounding.
    """
    start, *rest = objective
    found = [start]
    for value in rest[:-1]:
        if found[-1] <= value <= rest[-1]:
            found.append(value)
    return (*found, *rest[-1:])


State = Mapping[str, Tensor]
"""Tensors by key; may be lazy, and is never modified."""

SMALL = 1 << 18
"""Up to this many elements similarities are computed in float64, which costs little and breaks no ties by rounding."""


def is_small(layout: Layout) -> bool:
    """Whether the tensors of the objective have few elements."""
    bound = (tensor for tensor in layout.tensors.values() if tensor.section == "tensors")
    return sum(piece.elements for tensor in bound for piece in tensor.pieces) <= SMALL


OnStep = Callable[[int, int, int, float], None]
"""Called with sweep, step, steps in a sweep, and the objective; it may raise `StopMatching`."""


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
        """The same problem, where tensors of lazy sources are kept once they are read, as far as `memory` goes; all of
        a small one, in the type in which it is worked on."""
        budget = budgets(memory)[0]
        keep = keep_wide if is_small(self.layout) else keep_read
        return replace(self, a=keep(self.a, budget), b=keep(self.b, budget))

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
        executor: takes work that is independent of other work; the result does not depend on it. Its threads work on
            the same tensors.
        cluster: takes whole matches instead, where there are several; its processes share no memory.
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
    cluster: Executor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process there is no executor, and nobody to tell."""
        return Resources, (self.device, self.memory, None, 1, self.seed)


def in_reals(layout: Layout, *states: State) -> tuple[Layout, tuple[State, ...]]:
    """The layout and the states with a last side of two for every tensor that is complex in one of them.

    ⟨a, b⟩ is then Re Σ ā·b, and a distance counts both parts; the permutation that is found for the pairs is that of
    the complex tensors. The same objects where nothing is complex.
    """
    keys = frozenset(key for key in layout.tensors if any(_is_complex(state, key) for state in states))
    if not keys:
        return layout, states
    tensors = {
        key: replace(bound, pieces=tuple(map(_paired, bound.pieces))) if key in keys else bound
        for key, bound in layout.tensors.items()
    }
    return replace(layout, tensors=tensors), tuple(_Reals(state, keys) for state in states)


class _Reals(Mapping[str, Tensor]):
    """A state with some tensors as pairs (…, 2) of reals; lazy as the state is."""

    def __init__(self, state: State, keys: frozenset[str]) -> None:
        self._state, self._keys = state, keys

    def __getitem__(self, key: str) -> Tensor:
        tensor = self._state[key]
        if key not in self._keys:
            return tensor
        if not tensor.is_complex():
            return torch.stack([tensor, torch.zeros_like(tensor)], -1)
        return torch.view_as_real(tensor.resolve_conj()).contiguous()

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def _is_complex(state: State, key: str) -> bool:
    infos = getattr(state, "infos", None)  # of a checkpoint, whose tensors are not read for this
    if infos is not None:
        return key in infos and infos[key].dtype == "C64"
    return key in state and state[key].is_complex()


def _paired(piece: Piece) -> Piece:
    sides: Sequence[Side] = [replace(side, stride=2 * side.stride) for side in piece.sides]
    return Piece(2 * piece.offset, (*sides, Side(None, 2, 1)))
