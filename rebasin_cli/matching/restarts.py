"""Several starts and orders, the best of them kept.

Coordinate descent ends in an optimum that hangs on where it began and in which order it went. What one start misses
another may find: a known permutation of a residual network was recovered 10 times in 100 by one run of the original
loop (samuela/git-re-basin#8), and 99 times by the best of twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from time import perf_counter

from torch import Tensor

from rebasin_cli.matching.result import MatchResult, Stop, Trial
from rebasin_cli.matching.weights import OnStep, Order, Start, match_weights
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to match, by name: called with a progress callback, or None."""

    name: str
    run: Callable[[OnStep | None], MatchResult]


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
        def run(on_step: OnStep | None) -> MatchResult:
            begin = start or Permutation.random(layout, seed)
            return match_weights(
                layout, a, b, seed=seed, max_sweeps=max_sweeps, start=begin, order=order, device=device,
                memory=memory, on_step=on_step,
            )  # fmt: skip

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


def best_of(attempts: Iterable[Attempt], on_step: OnStep | None = None) -> MatchResult:
    """Make every attempt and keep the one that reached most; of equals the first.

    An attempt that was told to stop (see `Enough`) is the last one; what it had reached counts.
    """
    best: MatchResult | None = None
    trials: list[Trial] = []
    seconds: dict[str, float] = {}
    solvers: dict[str, int] = {}
    solves = 0
    early: Stop | None = None
    for attempt in attempts:
        began = perf_counter()
        result = attempt.run(on_step)
        trials.append(Trial(attempt.name, result.objective[-1], perf_counter() - began))
        for phase, spent in result.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
        for solver, count in result.solvers.items():
            solvers[solver] = solvers.get(solver, 0) + count
        solves += result.solves
        if best is None or result.objective[-1] > best.objective[-1]:
            best = result
        if result.stop in ("time", "interrupted"):
            early = result.stop
            break
        if result.stop == "nothing-to-move":
            break
    if best is None:
        raise ValueError("no attempts")
    if len(trials) == 1:
        return best
    return replace(best, stop=early or best.stop, seconds=seconds, solves=solves, solvers=solvers, trials=tuple(trials))
