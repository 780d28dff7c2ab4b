"""Several starts and orders, the best of them kept.

Coordinate descent ends in an optimum that hangs on where it began and in which order it went. What one start misses
another may find: a known permutation of a residual network was recovered 10 times in 100 by one run of the original
loop (samuela/git-re-basin#8), and 99 times by the best of twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from time import perf_counter
from typing import TypeVar

from torch import Tensor

from rebasin_cli.matching.measures import inner_product
from rebasin_cli.matching.memory import budgets, free_memory
from rebasin_cli.matching.parallel import in_order
from rebasin_cli.matching.result import Enough, MatchResult, Stop, Trial, rising
from rebasin_cli.matching.settling import NEAR, is_tie
from rebasin_cli.matching.weights import OnStep, Order, Start, match_weights
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec import Layout

N = TypeVar("N", int, float)

Choose = Callable[[Sequence[MatchResult]], int]

GRADIENTS = 3
"""Matrices that Frank-Wolfe holds for each dim: its gradient, its similarity, and what the assignment takes."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to match, by name: called with a progress callback and an executor for its parts, either may be None."""

    name: str
    run: Callable[[OnStep | None, Executor | None], MatchResult]


def descents(
    layout: Layout,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    count: int,
    seed: int = 0,
    max_sweeps: int = 100,
    start: Start = "anchored",
    order: Order = "forward",
    device: str = "cpu",
    memory: int | None = None,
) -> Iterator[Attempt]:
    """`count` descents that differ in start or order, the one that was asked for first.

    After it come anchored and identity, each in forward order, then in turn identity in the random orders of `seed`,
    `seed + 1`, … and random permutations of the same seeds in forward order. The same seed gives the same list.
    """

    def attempt(start: Start | None, order: Order, seed: int) -> Attempt:
        def run(on_step: OnStep | None, executor: Executor | None = None) -> MatchResult:
            begin = start or Permutation.random(layout, seed)
            result = match_weights(
                layout, a, b, seed=seed, max_sweeps=max_sweeps, start=begin, order=order, device=device,
                memory=memory, executor=executor, on_step=on_step,
            )  # fmt: skip
            if start:
                return result
            at_identity = inner_product(layout, a, b, Permutation.identity(layout), executor=executor)
            return replace(result, objective=rising((at_identity, *result.objective)))

        seeded = f", seed {seed}" if start is None or order == "random" else ""
        return Attempt(f"{start or 'random'}, {order} order{seeded}", run)

    def ways() -> Iterator[tuple[Start | None, Order, int]]:
        yield start, order, seed
        yield "anchored", "forward", seed
        yield "identity", "forward", seed
        for more in range(count):
            yield "identity", "random", seed + more
            yield None, "forward", seed + more

    names: set[str] = set()
    for way in ways():
        found = attempt(*way)
        if found.name not in names and len(names) < count:
            names.add(found.name)
            yield found


def best_of(
    attempts: Iterable[Attempt],
    on_step: OnStep | None = None,
    *,
    executor: Executor | None = None,
    at_once: int = 1,
    on_trial: Callable[[Trial], None] | None = None,
    choose: Choose | None = None,
) -> MatchResult:
    """Make every attempt and keep one.

    Args:
        choose: the number of the result that is kept; None for the first of those that reached most.
        on_step: handed to each attempt, in whatever thread it runs; once it has told one to stop (see `Enough`), all
            that are under way stop at their next step, and what they have reached by then counts.
        executor: runs `at_once` attempts at a time; one that is alone gets it for its own parts.
        on_trial: told of every attempt that has ended, in order.
    """
    left = iter(attempts)
    first = list(islice(left, 2))
    if not first:
        raise ValueError("no attempts")
    if len(first) == 1:
        return first[0].run(on_step, executor)
    stops: list[Stop] = []

    def step(sweep: int, step: int, of: int, objective: float) -> None:
        if stops:
            raise Enough(stops[0])
        try:
            if on_step:
                on_step(sweep, step, of, objective)
        except Enough as wish:
            stops.append(wish.stop)
            raise

    def ended(attempt: Attempt) -> tuple[MatchResult, Trial]:
        began = perf_counter()
        result = attempt.run(step, executor if at_once < 2 else None)
        if result.stop == "nothing-to-move":
            stops.append(result.stop)
        return result, Trial(attempt.name, result.objective[-1], perf_counter() - began)

    def tasks() -> Iterator[Callable[[], tuple[MatchResult, Trial]]]:
        for attempt in chain(first, left):
            if stops:
                return
            yield partial(ended, attempt)

    results, trials = [], []
    with closing(in_order(tasks(), executor, at_once, lambda: stops.append("interrupted"))) as ends:
        for result, trial in ends:
            results.append(result)
            trials.append(trial)
            if on_trial:
                on_trial(trial)
    kept = (choose or highest)(results)
    best = results[kept]
    if len(results) == 1:
        return best
    return replace(
        best,
        stop=stops[0] if stops else best.stop,
        seconds=_summed(result.seconds for result in results),
        solves=sum(result.solves for result in results),
        solvers=_summed(result.solvers for result in results),
        trials=tuple(replace(trial, kept=number == kept) for number, trial in enumerate(trials)),
    )


def highest(results: Sequence[MatchResult]) -> int:
    """The first of the results with the largest objective."""
    return max(range(len(results)), key=lambda number: results[number].objective[-1])


def simplest(layout: Layout, a: Mapping[str, Tensor], b: Mapping[str, Tensor], results: Sequence[MatchResult]) -> int:
    """The result with the largest objective; of equals (see `TIE`) that which moves fewest units, and then the first.

    What searches have summed up may be off by rounding, so that results near the largest are compared exactly.
    """
    reached = [result.objective[-1] for result in results]
    top = max(reached)
    exact = {
        number: inner_product(layout, a, b, results[number].permutation)
        for number, value in enumerate(reached)
        if value >= top - NEAR * abs(top)
    }
    if len(exact) == 1:
        return next(iter(exact))
    top = max(exact.values())
    equal = [number for number, value in exact.items() if value >= top or is_tie(value, top)]
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
