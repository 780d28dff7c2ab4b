"""Several starts and orders, the best of them kept.

Coordinate descent ends in an optimum that depends on where it began and in which order it went. What one start misses
another may find: a known permutation of a residual network was recovered 10 times in 100 by one run of the original
loop (samuela/git-re-basin#8), and 99 times by the best of twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from time import perf_counter
from typing import TypeVar

from rebasin_cli.matching.descent.settling import is_tie
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.options import Order, Start, WeightsOptions
from rebasin_cli.matching.problem import MatchResult, Problem, Resources, Stop, StopMatching, Trial, rising
from rebasin_cli.matching.resources import budgets, free_memory, in_order
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout

N = TypeVar("N", int, float)

Choose = Callable[[Sequence[MatchResult]], int]

GRADIENTS = 3
"""Matrices that Frank-Wolfe holds for each dim: its gradient, its similarity, and what the assignment takes."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to match, by name."""

    name: str
    run: Callable[[Resources], MatchResult]


def descents(
    problem: Problem, count: int, seed: int = 0, options: WeightsOptions = WeightsOptions()
) -> Iterator[Attempt]:
    """`count` descents that differ in start or order, the one that was asked for first.

    After it come anchored and identity, each in forward order, then in turn identity in the random orders of `seed`,
    `seed + 1`, … and random permutations of the same seeds in forward order. The same seed gives the same list.
    """
    names: set[str] = set()
    for start, order, of in _ways(count, seed, options):
        seeded = f", seed {of}" if start is None or order == "random" else ""
        name = f"{start or 'random'}, {order} order{seeded}"
        if name not in names and len(names) < count:
            names.add(name)
            begin = Permutation.random(problem.layout, of) if start is None else start
            yield Attempt(name, partial(descend, problem, of, replace(options, start=begin, order=order)))


def _ways(count: int, seed: int, options: WeightsOptions) -> Iterator[tuple[Start | Permutation | None, Order, int]]:
    """Start (None for a random one), order and seed."""
    yield options.start, options.order, seed
    yield "anchored", "forward", seed
    yield "identity", "forward", seed
    for more in range(count):
        yield "identity", "random", seed + more
        yield None, "forward", seed + more


def descend(problem: Problem, seed: int, options: WeightsOptions, resources: Resources) -> MatchResult:
    """One descent; from wherever it starts, its objective begins with that of the identity."""
    result = match_by_weights(problem, replace(resources, seed=seed), options)
    if isinstance(options.start, str):
        return result
    at_identity = problem.objective(Permutation.identity(problem.layout), None, resources.executor)
    return replace(result, objective=rising((at_identity, *result.objective)))


def best_of(
    attempts: Iterable[Attempt],
    resources: Resources = Resources(),
    *,
    on_trial: Callable[[Trial], None] | None = None,
    choose: Choose | None = None,
) -> MatchResult:
    """Make every attempt and keep one.

    Args:
        resources: `on_step` is handed to each attempt, in whatever thread it runs. Once it has raised `StopMatching` in
            one, all that are running stop at their next step, and what they have reached by then counts. The executor
            runs `at_once` attempts at a time; one that is alone gets it for its own parts. Attempts that go to a
            cluster are pickled, and `on_step` stays behind.
        on_trial: told of every attempt that has ended, in order.
        choose: the number of the result that is kept; None for the first of those that reached most.
    """
    left = iter(attempts)
    first = list(islice(left, 2))
    if not first:
        raise ValueError("no attempts")
    if len(first) == 1:
        return first[0].run(resources)
    trials = _Trials(resources)
    results = []
    tasks = trials.tasks(chain(first, left))
    with closing(in_order(tasks, resources.cluster or resources.executor, resources.at_once, trials.give_up)) as ends:
        for result, trial in ends:
            results.append((result, trial))
            if on_trial:
                on_trial(trial)
    matched = [result for result, _ in results]
    kept = (choose or highest)(matched)
    if len(results) == 1:
        return matched[kept]
    return replace(
        matched[kept],
        stop=trials.stops[0] if trials.stops else matched[kept].stop,
        seconds=_summed(result.seconds for result in matched),
        solves=sum(result.solves for result in matched),
        solvers=_summed(result.solvers for result in matched),
        trials=tuple(replace(trial, kept=number == kept) for number, (_, trial) in enumerate(results)),
    )


@dataclass(slots=True)
class _Trials:
    """Attempts under way, and why they are to stop, once one of them was told to."""

    resources: Resources
    stops: list[Stop] = field(default_factory=list)

    def tasks(self, attempts: Iterable[Attempt]) -> Iterator[Callable[[], tuple[MatchResult, Trial]]]:
        """What is left to do, as long as nothing was told to stop."""
        for attempt in attempts:
            if self.stops:
                return
            yield partial(self._ended, attempt)

    def give_up(self) -> None:
        """Stop all that are under way."""
        self.stops.append("interrupted")

    def _ended(self, attempt: Attempt) -> tuple[MatchResult, Trial]:
        began = perf_counter()
        alone = self.resources.executor if self.resources.at_once < 2 else None
        result = attempt.run(replace(self.resources, executor=alone, on_step=self._step, cluster=None))
        if result.stop == "nothing-to-move":
            self.stops.append(result.stop)
        return result, Trial(attempt.name, result.objective[-1], perf_counter() - began)

    def _step(self, sweep: int, step: int, of: int, objective: float) -> None:
        if self.stops:
            raise StopMatching(self.stops[0])
        try:
            if self.resources.on_step:
                self.resources.on_step(sweep, step, of, objective)
        except StopMatching as wish:
            self.stops.append(wish.stop)
            raise


def highest(results: Sequence[MatchResult]) -> int:
    """The first of the results with the largest objective."""
    return max(range(len(results)), key=lambda number: results[number].objective[-1])


def simplest(results: Sequence[MatchResult]) -> int:
    """The result with the largest objective; of equals (see `TIE`) the first of those that move fewest units."""
    reached = [result.objective[-1] for result in results]
    equal = [number for number, value in enumerate(reached) if is_tie(value, max(reached))]
    return min(equal, key=lambda number: results[number].permutation.count_moved())


def starts_at_once(layout: Layout, threads: int, memory: int | None) -> int:
    """How many starts may run side by side: up to `threads`, as long as what they hold fits into memory.

    Each holds its own matrices: of similarities as far as its budget goes, and of gradients where all dims move
    together; and two of the tensors. `memory` is what may be taken, in bytes; None for half of what is free.
    """
    elements = [piece.elements for bound in layout.tensors.values() for piece in bound.pieces]
    matrices = 8 * sum(layout.dims[dim].size ** 2 for dim in layout.moving())
    each = min(budgets(memory)[1].left, matrices) + GRADIENTS * matrices + 8 * max(elements, default=0)
    return max(1, min(threads, (free_memory() // 2 if memory is None else memory) // max(1, each)))


def _summed(parts: Iterable[Mapping[str, N]]) -> dict[str, N]:
    total: dict[str, N] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total[name] + amount if name in total else amount
    return total
