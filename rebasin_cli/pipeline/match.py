"""Running a match: on which device and threads, with progress, until it ends or is ended early.

It is ended early after a time (`--time-budget`), or on Ctrl-C (`--on-interrupt save`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Protocol, TypeVar

import torch

from rebasin_cli.matching.objective import Distance, measure_distance
from rebasin_cli.matching.problem import MatchResult, StopMatching, Trial, in_reals
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline import Advance, Progress
from rebasin_cli.pipeline.inputs import Source
from rebasin_cli.pipeline.layouts import Pair
from rebasin_cli.pipeline.method_choice import MatchChoice
from rebasin_cli.pipeline.methods import Running, run_method
from rebasin_cli.report.document import InputRecord


class _Noted(Protocol):
    """The result of a match."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever reads the result must know."""


Result = TypeVar("Result", bound=_Noted)


@dataclass(slots=True)
class MatchRun:
    """What a search is given while it runs.

    Attributes:
        check: raises `StopMatching` when it is time to stop.
        executor: for independent work, `threads` at a time; None for one after the other.
        advance: moves the current progress bar.
    """

    progress: Progress
    check: Callable[[], None]
    executor: Executor | None
    threads: int
    bar: ExitStack
    advance: Advance = lambda amount: None

    def begin(self, title: str, of: int | None = None, unit: str = "") -> None:
        """Put a new progress bar in the place of the current one."""
        self.bar.close()
        self.advance = self.bar.enter_context(self.progress.phase(title, of, unit))


def run_match(choice: MatchChoice, progress: Progress, title: str, search: Callable[[MatchRun], Result]) -> Result:
    """Run a search with threads, a progress bar, and the ways to end it early; pass on its notes."""
    threads = resolve_threads(choice.threads)
    with ExitStack() as stack, ExitStack() as bar:
        check = stack.enter_context(stopping(choice.time_budget, save=choice.on_interrupt == "save"))
        executor = None if choice.looks_at_data else stack.enter_context(pool(threads))
        run = MatchRun(progress, check, executor, threads, bar)
        run.begin(title)
        result = search(run)
    for note in result.notes:
        progress.warn(note)
    return result


@contextmanager
def on_cluster(
    choice: MatchChoice, inputs: Sequence[Source | Path], progress: Progress, folder: Path | None = None
) -> Iterator[MatchChoice]:
    """The choice with the workers of the cluster that it names, if it names one; see `cluster.workers`."""
    if choice.cluster is None:
        yield choice
        return
    from rebasin_cli.pipeline.cluster import workers

    with workers(choice.cluster, inputs, progress, folder) as found:
        yield replace(choice, workers=found)


def match_pair(
    pair: Pair, choice: MatchChoice, device: str, progress: Progress, inputs: Mapping[str, InputRecord]
) -> MatchResult:
    """Match B to A, and say what the outcome means.

    Args:
        inputs: A and B as they were scanned.
    """
    result = run_match(
        choice, progress, "reading for the match", lambda run: run_method(pair, choice, _running(run, device))
    )
    _tell_outcome(result, choice, progress)
    if result.stop == "nothing-to-move":
        progress.warn("no dim may move, so that B stays as it is")
    else:
        tell_identity(result.permutation, progress, inputs)
    return result


def _running(run: MatchRun, device: str) -> Running:
    """A match of two networks that shows its sweeps, or its starts where there are several."""

    def on_step(sweep: int, step: int, of: int, objective: float) -> None:
        """The number of sweeps is not known in advance, so every sweep has its own bar."""
        if step == 1:
            run.begin(f"matching, sweep {sweep + 1}", of, "steps")
        run.advance(1)
        run.progress.reached("objective", objective)
        if step == of:
            run.progress.detail(f"sweep {sweep + 1}: objective {objective:.8g}")
        run.check()

    def on_trial(trial: Trial) -> None:
        run.advance(1)
        run.progress.reached("objective", trial.objective)
        run.progress.detail(f"{trial.name}: objective {trial.objective:.8g}")

    on_several = partial(run.begin, "matching from several starts", unit="starts")
    return Running(device, run.check, on_step, on_several, on_trial, run.executor, run.threads)


def _tell_outcome(result: MatchResult, choice: MatchChoice, progress: Progress) -> None:
    """Say how the match ended."""
    if result.losses:
        from rebasin_cli.report.figures import loss_text  # which matches by weights do not need

        progress.remark(
            f"the midpoint's loss on examples held apart: {loss_text(result.losses[0])} after weight matching, "
            f"{loss_text(min(result.losses))} at its lowest in {len(result.losses) - 1} epochs"
        )
    elif result.stop == "max-sweeps":
        progress.warn(
            f"stopped after {choice.max_sweeps} sweeps, before the objective came to rest; "
            "a larger --max-sweeps goes on"
        )
    if result.stop == "time":
        progress.warn("the time budget ended before the match did: this is the best that was found until then")
    if result.stop == "interrupted":
        progress.warn("interrupted: this is the best that was found until then")


def tell_identity(
    permutation: Permutation, progress: Progress, inputs: Mapping[str, InputRecord] | None = None
) -> None:
    """Say so if nothing moves, or if nothing can be gained by moving: once.

    Args:
        inputs: A and B as they were scanned, where there are two.
    """
    a, b = (inputs or {}).get("a"), (inputs or {}).get("b")
    if a and b and a.sha256 is not None and a.sha256 == b.sha256:
        progress.warn("A and B are the same file: the identity is the optimum, and there is nothing to align")
    elif permutation and not permutation.count_moved():
        progress.warn(
            "the identity is the optimum that was found: B's units already lie in A's order "
            "(fine-tunes of one network, or aligned before), and aligning changes nothing"
        )


def resolve_threads(wanted: int | None) -> int:
    """The number of threads, which from now on is torch's own, too; by default the cores that we may use, or what
    OMP_NUM_THREADS says."""
    if wanted is not None:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


@contextmanager
def pool(threads: int) -> Iterator[Executor | None]:
    """The executor of a match, None for one thread. Inside it torch has one thread by itself.

    Products that torch shares out differ in their last bits with the number of threads, and for small networks
    sharing out costs more than the product. What is independent, and stripes of large products, goes through the
    executor instead, and the result is the same for any number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if threads < 2:
            yield None
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="rebasin") as executor:
            yield executor
    finally:
        torch.set_num_threads(before)


@contextmanager
def stopping(budget: float | None, *, save: bool) -> Iterator[Callable[[], None]]:
    """Yields a function to call now and then, which raises `StopMatching` when it is time to stop.

    Args:
        budget: seconds from now.
        save: take the first Ctrl-C as the wish to stop; the second one interrupts as always.
    """
    deadline = None if budget is None else monotonic() + budget
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    def check() -> None:
        if interrupted:
            raise StopMatching("interrupted")
        if deadline is not None and monotonic() >= deadline:
            raise StopMatching("time")

    before = None
    if save:
        try:
            before = signal.signal(signal.SIGINT, interrupt)
        except ValueError:  # not the main thread, which alone receives signals
            save = False
    try:
        yield check
    finally:
        if save:
            signal.signal(signal.SIGINT, before)


def distance_of(pair: Pair, permutation: Permutation, on_step: Callable[[str], None] | None = None) -> Distance:
    """How far B is from A, as it is and permuted; of their balanced forms where units are scaled, of their canonical
    ones where they are rotated."""
    layout, (a, b) = in_reals(pair.layout, pair.a, pair.b)
    if permutation.scales or permutation.has_maps:
        from rebasin_cli.matching.scales import in_balance

        a, b, permutation = in_balance(layout, permutation, a, b)
    return measure_distance(layout, a, b, permutation, on_step)
