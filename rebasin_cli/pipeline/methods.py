"""Which matching method runs, and with what: one value from the command line down to the solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from itertools import chain, islice
from typing import Any, Literal, TypeVar

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.matching.data.activations import ActivationOptions, match_by_activations
from rebasin_cli.matching.data.straight_through import SteOptions, match_by_straight_through
from rebasin_cli.matching.descent.weights import Order, Start, WeightsOptions
from rebasin_cli.matching.portfolio import Attempt, best_of, descents, simplest, starts_at_once
from rebasin_cli.matching.problem import ActivationProblem, LossProblem, OnStep, Problem, Resources
from rebasin_cli.matching.relaxation.frank_wolfe import frank_wolfe_attempts
from rebasin_cli.matching.relaxation.rounding import STARTS, RelaxedStart, joint_dims
from rebasin_cli.matching.relaxation.sinkhorn import (
    SinkhornLossOptions,
    SinkhornOptions,
    match_by_sinkhorn_loss,
    sinkhorn_attempts,
)
from rebasin_cli.matching.result import MatchResult, Trial
from rebasin_cli.matching.similarity.contributions import sweep_work
from rebasin_cli.pipeline.layouts import Pair
from rebasin_cli.pipeline.match_data import MatchData

DESCENTS: Mapping[str, int] = {"fast": 1, "default": 1, "high": 5}
"""Descents by `--quality`."""

CHEAP = 1 << 31
"""Multiply-adds of a sweep up to which the default has Frank-Wolfe from the barycentre beside the descent (four times
the time of the descent alone, five where there are heads, which it is given by a descent of its own: a second or two at
most), and the high quality Sinkhorn re-basin (a hundred times), where that moves all dims."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a method that looks at weights alone searches.

    Attributes:
        start, order: of the first descent.
        restarts: how many descents; None leaves it to `quality`.
    """

    start: Start = "anchored"
    order: Order = "forward"
    restarts: int | None = None
    quality: str = "default"

    @property
    def descents(self) -> int:
        """How many descents."""
        return self.restarts or DESCENTS[self.quality]

    @property
    def leaves_it_to_quality(self) -> bool:
        """Whether nothing is said of where to start and how often."""
        return (self.restarts, self.start, self.order) == (None, "anchored", "forward")


@dataclass(frozen=True, slots=True)
class SinkhornSearchOptions(SearchOptions):
    """The same with Sinkhorn re-basin by the distance."""

    objective: Literal["distance"] = "distance"
    learning_rate: float = SinkhornOptions().learning_rate


@dataclass(frozen=True, slots=True)
class MatchChoice:
    """How to match.

    Attributes:
        options: of the method; see `METHODS`.
        max_sweeps: sweeps of a descent, and rounds of a merge, at most.
        time_budget: seconds after which the best so far is taken.
        memory: bytes that matching may keep between steps; None leaves it to the method.
        threads: how many work at once; None for as many as torch would take.
        fitting: what a method that `looks_at_data` is shown.
    """

    method: str = "weights"
    options: Any = SearchOptions()
    seed: int = 0
    max_sweeps: int = 100
    device: str = "auto"
    time_budget: float | None = None
    on_interrupt: str = "abort"
    memory: int | None = None
    threads: int | None = None
    fitting: MatchData | None = None

    @property
    def looks_at_data(self) -> bool:
        """Whether the method needs examples."""
        return not isinstance(self.options, SearchOptions)

    @property
    def goes_down_a_loss(self) -> bool:
        """Whether the method searches by a network's loss."""
        return isinstance(self.options, SinkhornLossOptions | SteOptions)


@dataclass(frozen=True, slots=True)
class Running:
    """Where a match runs, and whom it tells.

    Attributes:
        device: a resolved one.
        executor: for work that is independent of other work, `threads` at a time; None for one after the other.
        on_step: told of every step of a match that is alone; check: of every step of one of several, in its thread.
            Both may raise `StopMatching`.
        on_several: told how many starts there are, if there are several; on_trial: of each that has ended.
    """

    device: str
    check: Callable[[], None]
    on_step: OnStep
    on_several: Callable[[int], None] = lambda count: None
    on_trial: Callable[[Trial], None] = lambda trial: None
    executor: Executor | None = None
    threads: int = 1


def match_by_search(problem: Problem, choice: MatchChoice, running: Running) -> MatchResult:
    """Match B to A by their weights, from as many starts as the choice says."""
    options = _options(choice, SearchOptions)
    layout = problem.layout
    problem = problem.cached(choice.memory)
    descent = WeightsOptions(options.start, options.order, choice.max_sweeps)
    started = descents(problem, options.descents, choice.seed, descent)
    together = _together(problem, choice, options)
    if not together and choice.method != "weights":
        raise ContentError(
            f"--method {choice.method} moves all dims of {layout.spec.name} together: none can move so, or memory does "
            "not hold their matrices",
            remedy="--method weights --restarts 5 takes one dim after another",
        )
    # The descent that was asked for first, so that what is kept is never below it.
    count = options.descents + len(together)
    if count > 1:
        running.on_several(count)
    resources = replace(
        _resources(choice, running),
        executor=running.executor,
        at_once=starts_at_once(layout, running.threads, choice.memory),
        on_step=running.on_step if count == 1 else lambda *_: running.check(),
    )
    result = best_of(
        chain(islice(started, 1), together, started),
        resources,
        on_trial=running.on_trial,
        choose=simplest,
    )
    return replace(result, method=choice.method)


def _together(problem: Problem, choice: MatchChoice, options: SearchOptions) -> list[Attempt]:
    """What moves all dims together beside the descents, by the method or the quality that was asked for."""
    layout = problem.layout
    cheap = sweep_work(layout) <= CHEAP
    attempts: list[Attempt] = []
    starts: tuple[RelaxedStart, ...] = ()
    if choice.method == "frank-wolfe" or options.quality == "high":
        starts = STARTS
    elif choice.method == "weights" and options.quality == "default" and options.leaves_it_to_quality and cheap:
        starts = ("barycentre",)
    if starts:
        attempts += frank_wolfe_attempts(problem, starts, choice.max_sweeps)
    moves_all = set(joint_dims(layout)) == set(layout.moving())
    if isinstance(options, SinkhornSearchOptions):
        attempts += sinkhorn_attempts(problem, SinkhornOptions(options.learning_rate, choice.max_sweeps))
    elif options.quality == "high" and cheap and moves_all:
        attempts += sinkhorn_attempts(problem, SinkhornOptions(max_sweeps=choice.max_sweeps))
    return attempts


def _search(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    return match_by_search(Problem(pair.layout, pair.a, pair.b), choice, running)


def _activations(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    problem = activation_problem(_match_data(choice), Problem(pair.layout, pair.a, pair.b))
    return match_by_activations(problem, _resources(choice, running), _options(choice, ActivationOptions))


def activation_problem(fitting: MatchData, problem: Problem) -> ActivationProblem:
    """Both networks, and how they are run side by side."""
    run = fitting.pair_run(problem.a, problem.b)
    return ActivationProblem(problem.layout, problem.a, problem.b, run, fitting.prefix, fitting.taps)


def _ste(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    options = replace(_options(choice, SteOptions), max_sweeps=choice.max_sweeps)
    return match_by_straight_through(_loss_problem(pair, choice), _resources(choice, running), options)


def _sinkhorn_loss(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    options = replace(_options(choice, SinkhornLossOptions), max_sweeps=choice.max_sweeps)
    return match_by_sinkhorn_loss(_loss_problem(pair, choice), _resources(choice, running), options)


def _loss_problem(pair: Pair, choice: MatchChoice) -> LossProblem:
    fitting = _match_data(choice)
    return LossProblem(pair.layout, pair.a, pair.b, fitting.loss, fitting.held_apart, fitting.steps)


def _resources(choice: MatchChoice, running: Running) -> Resources:
    return Resources(device=running.device, memory=choice.memory, seed=choice.seed, on_step=running.on_step)


@dataclass(frozen=True, slots=True)
class Method:
    """A `--method`: what it reads, and what runs it.

    Attributes:
        options: the class of its options; their names are those of the command line.
        given: options that it is named with, besides `--method`.
    """

    name: str
    options: type
    run: Callable[[Pair, MatchChoice, Running], MatchResult]
    given: str = ""


METHODS = (
    Method("weights", SearchOptions, _search),
    Method("frank-wolfe", SearchOptions, _search),
    Method("sinkhorn", SinkhornSearchOptions, _search),
    Method("sinkhorn", SinkhornLossOptions, _sinkhorn_loss, " --objective midpoint"),
    Method("activations", ActivationOptions, _activations),
    Method("ste", SteOptions, _ste),
)
"""Every method. Sinkhorn re-basin is two of them: by the distance of weights, and by a loss."""

NOT_OPTIONS = ("max_sweeps", "patience")
"""Fields that `MatchChoice` gives, or that no option sets."""


def match_choice(method: str = "weights", given: Mapping[str, object] | None = None, **common: Any) -> MatchChoice:
    """A choice from options by name.

    Args:
        given: options of methods; None is one that was not given.
        common: the other fields of `MatchChoice`.

    Raises:
        UsageError: an option that the method does not read.
    """
    told = {name: value for name, value in (given or {}).items() if value is not None}
    found = _method(method, told.get("objective"))
    known = _defaults(found.options)
    for name, value in told.items():
        if name not in known:
            _refuse_unread(found, name, value)
    return MatchChoice(method, found.options(**{name: told[name] for name in told if name in known}), **common)


def run_method(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    """Match B to A as was chosen."""
    method = next(m for m in METHODS if (m.name, m.options) == (choice.method, type(choice.options)))
    return method.run(pair, choice, running)


def _method(name: str, objective: object) -> Method:
    by_loss = name == "sinkhorn" and objective not in (None, "distance")
    return next(m for m in METHODS if m.name == name and (m.options is SinkhornLossOptions) == by_loss)


def _defaults(options: type) -> dict[str, object]:
    """The options of a class by name, with their defaults."""
    return {f.name: f.default for f in fields(options) if f.name not in NOT_OPTIONS}


def _refuse_unread(method: Method, name: str, value: object) -> None:
    readers = [m for m in METHODS if name in _defaults(m.options)]
    option = f"--{name.replace('_', '-')}"
    own = ", ".join(dict.fromkeys(f"--method {reader.name}{reader.given}" for reader in readers))
    raise UsageError(
        f"{option} {value}: --method {method.name} does not read it",
        remedy=f"leave it out; it belongs to {own}",
    )


def search_record(choice: MatchChoice) -> dict[str, str]:
    """Options of matching, as text, that another permutation can come from."""
    common = {name: getattr(choice, name) for name in ("method", "seed", "max_sweeps", "time_budget")}
    own = {name: getattr(choice.options, name) for name in _defaults(type(choice.options))}
    return {f"--{name.replace('_', '-')}": str(value) for name, value in sorted({**common, **own}.items())}


def search_longer(choice: MatchChoice) -> str:
    """Options, added to those of a run, with which a match may find a better optimum: what its method has to offer."""
    options = choice.options
    if isinstance(options, ActivationOptions):
        return "--method ste"
    if isinstance(options, SteOptions | SinkhornLossOptions):
        return f"--epochs {2 * options.epochs}"
    if options.quality == "high" or options.restarts is not None:
        return f"--restarts {2 * options.descents}"
    return "--quality high"


def missing_data(choice: MatchChoice, *, judged: bool = False) -> UsageError:
    """What is said where a method has no examples; `judged`: a command is in the place of --data."""
    objective = getattr(choice.options, "objective", None)
    how = f"{choice.method} --objective {objective}" if objective else choice.method
    option = "--fit-data" if judged else "--data"
    return UsageError(f"--method {how} looks at examples, and there are none", remedy=f"add {option} PATH")


Options = TypeVar("Options")


def _options(choice: MatchChoice, kind: type[Options]) -> Options:
    if not isinstance(choice.options, kind):
        raise TypeError(f"{choice.method} takes {kind.__name__}, not {type(choice.options).__name__}")
    return choice.options


def _match_data(choice: MatchChoice) -> MatchData:
    if choice.fitting is None:
        raise missing_data(choice)
    return choice.fitting
