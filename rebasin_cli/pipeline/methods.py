"""Which matching method runs, and with what: one value from the command line down to the solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice

from torch import Tensor

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.matching import MatchResult, Trial, best_of, descents, frank_wolfe_attempts
from rebasin_cli.matching.activations import Similarity, match_activations
from rebasin_cli.matching.by_loss import Epochs
from rebasin_cli.matching.frank_wolfe import Begin
from rebasin_cli.matching.memory import budgets, keep_read
from rebasin_cli.matching.plans import sweep_work
from rebasin_cli.matching.relaxation import joint_dims
from rebasin_cli.matching.restarts import Attempt, simplest, starts_at_once
from rebasin_cli.matching.sinkhorn import RATE as SINKHORN_RATE
from rebasin_cli.matching.sinkhorn import Target, match_sinkhorn, sinkhorn_attempts
from rebasin_cli.matching.ste import RATE as STE_RATE
from rebasin_cli.matching.ste import SteOptions, match_ste
from rebasin_cli.matching.weights import OnStep, Order, Start
from rebasin_cli.pipeline.binding import Pair
from rebasin_cli.pipeline.fitting import Fitting
from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class MatchChoice:
    """How to match; the fields are the options of the same names.

    Attributes:
        restarts: how many starts; None leaves it to `quality`.
        time_budget: seconds after which the best so far is taken.
        memory: bytes that matching may keep between steps; None leaves it to the method.
        threads: how many work at once; None for as many as torch would take.
        objective: what `sinkhorn` goes down.
        fitting: what a method that `looks_at_data` is shown.
        learning_rate: None for the method's own.
    """

    method: str = "weights"
    seed: int = 0
    max_sweeps: int = 100
    start: Start = "anchored"
    order: Order = "forward"
    device: str = "auto"
    restarts: int | None = None
    quality: str = "default"
    time_budget: float | None = None
    on_interrupt: str = "abort"
    memory: int | None = None
    threads: int | None = None
    objective: Target = "distance"
    fitting: Fitting | None = None
    similarity: Similarity = "correlation"
    epochs: int = 20
    learning_rate: float | None = None
    momentum: float = 0.9

    @property
    def starts(self) -> int:
        """How many starts."""
        return self.restarts or STARTS[self.quality]

    @property
    def leaves_it_to_quality(self) -> bool:
        """Whether nothing is said of where to start and how often."""
        return (self.restarts, self.start, self.order) == (None, "anchored", "forward")

    @property
    def goes_down_a_loss(self) -> bool:
        """Whether the method searches by a network's loss."""
        return self.looks_at_data and self.method != "activations"

    @property
    def looks_at_data(self) -> bool:
        """Whether the method needs examples."""
        return self.method in ("activations", "ste") or (self.method == "sinkhorn" and self.objective != "distance")


STARTS: Mapping[str, int] = {"fast": 1, "default": 1, "high": 5}
"""Starts by `--quality`."""

CHEAP = 1 << 31
"""Multiply-adds of a sweep up to which the default has Frank-Wolfe from the barycentre beside the descent (four times
the time of the descent alone, five where there are heads, which it is given by a descent of its own: a second or two at
most), and the high quality Sinkhorn re-basin (a hundred times), where that moves all dims."""


@dataclass(frozen=True, slots=True)
class Running:
    """Where a match runs, and whom it tells.

    Attributes:
        device: a resolved one.
        executor: for work that is independent of other work, `threads` at a time; None for one after the other.
        on_step: told of every step of a match that is alone; check: of every step of one of several, in its thread.
            Both may raise `Enough`.
        on_several: told how many starts there are, if there are several; on_trial: of each that has ended.
    """

    device: str
    check: Callable[[], None]
    on_step: OnStep
    on_several: Callable[[int], None] = lambda count: None
    on_trial: Callable[[Trial], None] = lambda trial: None
    executor: Executor | None = None
    threads: int = 1


Method = Callable[[Pair, MatchChoice, Running], MatchResult]


def match_states(
    layout: Layout, a: Mapping[str, Tensor], b: Mapping[str, Tensor], choice: MatchChoice, running: Running
) -> MatchResult:
    """Match B to A by their weights, from as many starts as the choice says."""
    budget, _ = budgets(choice.memory)
    a, b = keep_read(a, budget), keep_read(b, budget)
    device = running.device
    started = descents(
        layout, a, b, count=choice.starts, seed=choice.seed, max_sweeps=choice.max_sweeps,
        start=choice.start, order=choice.order, device=device, memory=choice.memory,
    )  # fmt: skip
    together = _together(layout, a, b, choice, device)
    if not together and choice.method != "weights":
        raise ContentError(
            f"--method {choice.method} moves all dims of {layout.spec.name} together: none can move so, or memory does "
            "not hold their matrices",
            remedy="--method weights --restarts 5 takes one dim after another",
        )
    # The descent that was asked for first, so that what is kept is never below it.
    count = choice.starts + len(together)
    if count > 1:
        running.on_several(count)
    result = best_of(
        chain(islice(started, 1), together, started),
        running.on_step if count == 1 else lambda *_: running.check(),
        executor=running.executor,
        at_once=starts_at_once(layout, running.threads, choice.memory),
        on_trial=running.on_trial,
        choose=partial(simplest, layout, a, b),
    )
    return replace(result, method=choice.method)


def _together(
    layout: Layout, a: Mapping[str, Tensor], b: Mapping[str, Tensor], choice: MatchChoice, device: str
) -> list[Attempt]:
    """What moves all dims together beside the descents, by the method or the quality that was asked for."""
    cheap = sweep_work(layout) <= CHEAP
    attempts: list[Attempt] = []
    starts: tuple[Begin, ...] = ()
    if choice.method == "frank-wolfe" or choice.quality == "high":
        starts = ("barycentre", "identity")
    elif choice.method == "weights" and choice.quality == "default" and choice.leaves_it_to_quality and cheap:
        starts = ("barycentre",)
    if starts:
        attempts += frank_wolfe_attempts(
            layout, a, b, starts=starts, seed=choice.seed, max_sweeps=choice.max_sweeps, device=device,
            memory=choice.memory,
        )  # fmt: skip
    moves_all = set(joint_dims(layout)) == set(layout.moving())
    if choice.method == "sinkhorn" or (choice.quality == "high" and cheap and moves_all):
        attempts += sinkhorn_attempts(
            layout, a, b, learning_rate=_rate(choice, SINKHORN_RATE), seed=choice.seed, max_sweeps=choice.max_sweeps,
            device=device, memory=choice.memory,
        )  # fmt: skip
    return attempts


def _weights(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    return match_states(pair.layout, pair.a, pair.b, choice, running)


def _activations(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    fitting = _fitting(choice)
    return match_activations(
        pair.layout, pair.a, pair.b, fitting.pair_run(pair.a, pair.b), prefix=fitting.prefix,
        similarity=choice.similarity, named=fitting.taps, seed=choice.seed, on_step=running.on_step,
    )  # fmt: skip


def _ste(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    fitting = _fitting(choice)
    length = Epochs(fitting.steps, choice.epochs)
    options = SteOptions(length, _rate(choice, STE_RATE), choice.momentum)
    return match_ste(
        pair.layout, pair.a, pair.b, fitting.loss, fitting.held_apart, options,
        seed=choice.seed, max_sweeps=choice.max_sweeps, device=running.device, on_step=running.on_step,
    )  # fmt: skip


def _sinkhorn(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    if not choice.looks_at_data:
        return match_states(pair.layout, pair.a, pair.b, choice, running)
    fitting = _fitting(choice)
    return match_sinkhorn(
        pair.layout, pair.a, pair.b, fitting.loss, fitting.held_apart, Epochs(fitting.steps, choice.epochs),
        target=choice.objective, learning_rate=_rate(choice, SINKHORN_RATE),
        seed=choice.seed, max_sweeps=choice.max_sweeps, device=running.device, on_step=running.on_step,
    )  # fmt: skip


def search_longer(choice: MatchChoice) -> str:
    """Options, added to those of a run, with which a match may find a better optimum: what its method has to offer."""
    if choice.looks_at_data:
        return "--method ste" if choice.method == "activations" else f"--epochs {2 * choice.epochs}"
    if choice.quality == "high" or choice.restarts is not None:
        return f"--restarts {2 * choice.starts}"
    return "--quality high"


def missing_data(choice: MatchChoice, *, judged: bool = False) -> UsageError:
    """What is said where a method has no examples; `judged`: a command is in the place of --data."""
    how = f"{choice.method} --objective {choice.objective}" if choice.method == "sinkhorn" else choice.method
    option = "--fit-data" if judged else "--data"
    return UsageError(f"--method {how} looks at examples, and there are none", remedy=f"add {option} PATH")


def _rate(choice: MatchChoice, own: float) -> float:
    return own if choice.learning_rate is None else choice.learning_rate


def _fitting(choice: MatchChoice) -> Fitting:
    if choice.fitting is None:
        raise missing_data(choice)
    return choice.fitting


METHODS: Mapping[str, Method] = {
    "weights": _weights,
    "frank-wolfe": _weights,
    "sinkhorn": _sinkhorn,
    "activations": _activations,
    "ste": _ste,
}
"""Every `--method`, by name: from the pair, the choice and what it runs on to a result."""
