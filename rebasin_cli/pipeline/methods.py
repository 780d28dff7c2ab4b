"""Running the matching method that was chosen; a method is imported when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

from rebasin_cli.errors import ContentError
from rebasin_cli.matching.options import (
    STARTS,
    ActivationOptions,
    RelaxedStart,
    SinkhornLossOptions,
    SinkhornOptions,
    SteOptions,
    WeightsOptions,
)
from rebasin_cli.matching.portfolio import Attempt, best_of, descend, descents, simplest, starts_at_once
from rebasin_cli.matching.problem import (
    ActivationProblem,
    LossProblem,
    MatchResult,
    OnStep,
    Problem,
    Resources,
    State,
    Trial,
    in_reals,
)
from rebasin_cli.matching.resources import sweep_work
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline.layouts import Pair
from rebasin_cli.pipeline.method_choice import MatchChoice, SearchOptions, SinkhornSearchOptions, missing_data
from rebasin_cli.spec import Layout

if TYPE_CHECKING:  # a network and examples, which not every method has
    from rebasin_cli.pipeline.match_data import MatchData

CHEAP = 1 << 31
"""Multiply-adds of a sweep up to which the default has Frank-Wolfe from the barycentre beside the descent (four times
the time of the descent alone, five where there are heads, which it is given by a descent of its own: a second or two at
most), and the high quality Sinkhorn re-basin (a hundred times), where that moves all dims."""


NEARER = 0.1
"""By which share a match of the balanced forms must exceed one of the networks as they are, judged there, to be taken:
lengths of trained units say something, and nothing where units of one network were scaled at random."""


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
    """Match B to A by their weights, from as many starts as the choice says.

    Where signs may be turned it begins with what permutations alone reach, so that it never stays below that.
    """
    problem = problem.cached(choice.memory)
    if not problem.layout.signed():
        return _searched(problem, choice, running)
    plain = _searched(problem.without_signs(), choice, running)
    start = WeightsOptions(plain.permutation, max_sweeps=choice.max_sweeps)
    first = Attempt("where permutations alone end", partial(descend, problem, choice.seed, start))
    return _searched(problem, choice, running, (first,))


def _searched(problem: Problem, choice: MatchChoice, running: Running, before: tuple[Attempt, ...] = ()) -> MatchResult:
    """The best of the starts that the choice says, and of attempts `before` them."""
    options = _options(choice, SearchOptions)
    layout = problem.layout
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
    count = options.descents + len(together) + len(before)
    if count > 1:
        running.on_several(count)
    resources = replace(
        _resources(choice, running),
        executor=running.executor,
        cluster=choice.workers.executor if choice.workers else None,
        at_once=at_once(choice, layout, running.threads),
        on_step=running.on_step if count == 1 else lambda *_: running.check(),
    )
    result = best_of(
        chain(before, islice(started, 1), together, started),
        resources,
        on_trial=running.on_trial,
        choose=simplest,
    )
    return replace(result, method=choice.method)


def at_once(choice: MatchChoice, layout: Layout, threads: int) -> int:
    """How many matches may run side by side: on the workers that there are, or in threads of this process."""
    return choice.workers.at_once if choice.workers else starts_at_once(layout, threads, choice.memory)


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
        from rebasin_cli.matching.frank_wolfe import frank_wolfe_attempts

        attempts += frank_wolfe_attempts(problem, starts, choice.max_sweeps)
    if isinstance(options, SinkhornSearchOptions):
        from rebasin_cli.matching.sinkhorn import sinkhorn_attempts

        attempts += sinkhorn_attempts(problem, SinkhornOptions(options.learning_rate, choice.max_sweeps))
    elif options.quality == "high" and cheap:
        from rebasin_cli.matching.descent.weights import joint_dims
        from rebasin_cli.matching.sinkhorn import sinkhorn_attempts

        if set(joint_dims(layout)) == set(layout.moving()):
            attempts += sinkhorn_attempts(problem, SinkhornOptions(max_sweeps=choice.max_sweeps))
    return attempts


def match_states(layout: Layout, a: State, b: State, choice: MatchChoice, running: Running) -> MatchResult:
    """Match B to A by their weights, and scale and rotate units where they may be.

    The networks as they are, or their balanced forms where these come nearer by far.
    """
    if layout.rotated():
        from rebasin_cli.matching.rotations import match_with_rotations

        resources = replace(_resources(choice, running), executor=running.executor)
        found = match_with_rotations(Problem(layout, a, b), resources, max_rounds=choice.max_sweeps)
        return replace(found, notes=notes_on_starts(choice))
    plain = Problem(layout.without_scales(), a, b)
    found = match_by_search(plain, choice, running)
    if not layout.scaled():
        return found
    from rebasin_cli.matching.scales import balance, balanced, with_scales

    forms = balance(layout, a), balance(layout, b)
    one, two = (balanced(layout, state, form) for state, form in zip((a, b), forms, strict=True))
    problem = replace(plain, a=one, b=two).cached(choice.memory)
    other = match_by_search(problem, choice, running)
    start, reached = (problem.objective(p) for p in (Permutation.identity(plain.layout), found.permutation))
    if other.objective[-1] > (1 + NEARER) * reached:
        found = other
    elif found.objective:
        found = replace(found, objective=(min(start, reached), reached))
    return replace(found, permutation=with_scales(layout, a, b, found.permutation, forms))


def notes_on_starts(choice: MatchChoice) -> tuple[str, ...]:
    """What is said where rotations are matched, and other starts were asked for."""
    options = _options(choice, SearchOptions)
    if options.leaves_it_to_quality and options.quality == "default":
        return ()
    return ("rotations are matched from two starts of their own; other starts and qualities were not tried",)


def _search(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    layout, (a, b) = in_reals(pair.layout, pair.a, pair.b)
    return match_states(layout, a, b, choice, running)


def _activations(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    from rebasin_cli.matching.data.activations import match_by_activations

    problem = activation_problem(_match_data(choice), Problem(pair.layout.without_scales(), pair.a, pair.b))
    return match_by_activations(problem, _resources(choice, running), _options(choice, ActivationOptions))


def activation_problem(fitting: MatchData, problem: Problem) -> ActivationProblem:
    """Both networks, and how they are run side by side."""
    run = fitting.pair_run(problem.a, problem.b)
    return ActivationProblem(problem.layout, problem.a, problem.b, run, fitting.prefix, fitting.taps)


def _ste(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    from rebasin_cli.matching.data.straight_through import match_by_straight_through

    options = replace(_options(choice, SteOptions), max_sweeps=choice.max_sweeps)
    if pair.layout.rotated():
        from rebasin_cli.matching.data.learned import match_by_learning

        problem = replace(_loss_problem(pair, choice), layout=pair.layout)
        return match_by_learning(problem, _resources(choice, running), options)
    return match_by_straight_through(_loss_problem(pair, choice), _resources(choice, running), options)


def _sinkhorn_loss(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    from rebasin_cli.matching.sinkhorn import match_by_sinkhorn_loss

    options = replace(_options(choice, SinkhornLossOptions), max_sweeps=choice.max_sweeps)
    return match_by_sinkhorn_loss(_loss_problem(pair, choice), _resources(choice, running), options)


def _loss_problem(pair: Pair, choice: MatchChoice) -> LossProblem:
    fitting = _match_data(choice)
    return LossProblem(pair.layout.without_scales(), pair.a, pair.b, fitting.loss, fitting.held_apart, fitting.steps)


def _resources(choice: MatchChoice, running: Running) -> Resources:
    return Resources(device=running.device, memory=choice.memory, seed=choice.seed, on_step=running.on_step)


RUNS: Mapping[type, Callable[[Pair, MatchChoice, Running], MatchResult]] = {
    SearchOptions: _search,
    SinkhornSearchOptions: _search,
    SinkhornLossOptions: _sinkhorn_loss,
    ActivationOptions: _activations,
    SteOptions: _ste,
}
"""What runs a method, by the class of its options."""


def run_method(pair: Pair, choice: MatchChoice, running: Running) -> MatchResult:
    """Match B to A as was chosen, and scale units where they may be."""
    result = RUNS[type(choice.options)](pair, choice, running)
    if not pair.layout.scaled() or pair.layout.rotated() or isinstance(choice.options, SearchOptions):
        return result
    from rebasin_cli.matching.scales import with_scales

    layout, (a, b) = in_reals(pair.layout, pair.a, pair.b)
    return replace(result, permutation=with_scales(layout, a, b, result.permutation))


Options = TypeVar("Options")


def _options(choice: MatchChoice, kind: type[Options]) -> Options:
    if not isinstance(choice.options, kind):
        raise TypeError(f"{choice.method} takes {kind.__name__}, not {type(choice.options).__name__}")
    return choice.options


def _match_data(choice: MatchChoice) -> MatchData:
    if choice.fitting is None:
        raise missing_data(choice)
    return choice.fitting
