"""Running the match of a merge: all models to one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rebasin_cli.matching.problem import ActivationProblem, MatchResult, Problem, Resources
from rebasin_cli.matching.rotations import canonical, match_between_forms
from rebasin_cli.matching.scales import balance, balanced, with_scales
from rebasin_cli.merging.many import ManyResult, descend, match_many
from rebasin_cli.merging.many_by_activations import match_many_by_activations
from rebasin_cli.merging.models import Models
from rebasin_cli.merging.options import Algorithm, ManyOptions
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.match import MatchRun, run_match
from rebasin_cli.pipeline.method_choice import MatchChoice
from rebasin_cli.pipeline.methods import Running, activation_problem, at_once, match_by_search, notes_on_starts


def match_models(models: Models, algorithm: Algorithm, choice: MatchChoice, progress: Progress) -> ManyResult:
    """Match all models of a merge to one another, and say how the match ended.

    Models with rotations are matched in their canonical forms, others with scales in their balanced ones.
    """
    matching = _models_by_activations if choice.method == "activations" else _models_by_weights
    layout = models.layout
    states = models.states
    forms = [canonical(layout, state) for state in states] if layout.rotated() else []
    if forms:
        states = tuple(form.state for form in forms)
    elif layout.scaled() and not choice.looks_at_data:
        states = tuple(balanced(layout, state, balance(layout, state)) for state in states)
    plain = replace(models, layout=layout.without_scales(), states=states)
    result = run_match(choice, progress, "matching", lambda run: matching(plain, algorithm, choice, run))
    if forms:
        back = forms[0].element.inverse(layout)
        found = (
            form.element.compose(permutation, layout).compose(back, layout)
            for form, permutation in zip(forms[1:], result.permutations[1:], strict=True)
        )
        result = replace(result, permutations=(result.permutations[0], *found))
    elif layout.scaled():
        first, *others = models.states
        scaled = (
            with_scales(layout, first, state, permutation)
            for state, permutation in zip(others, result.permutations[1:], strict=True)
        )
        result = replace(result, permutations=(result.permutations[0], *scaled))
    if result.stop == "max-sweeps":
        progress.warn(f"stopped after {choice.max_sweeps} rounds, before the objective came to rest")
    if result.stop in ("time", "interrupted"):
        progress.warn("matching was ended early: this is the best that was found until then")
    return result


def _models_by_weights(models: Models, algorithm: Algorithm, choice: MatchChoice, run: MatchRun) -> ManyResult:
    device = choice.device_for(models.layout)

    match = _ByWeights(device, choice, run.threads, run.check)
    resources = Resources(
        device, choice.memory, run.executor, at_once(choice, models.layout, run.threads), choice.seed,
        cluster=choice.workers.executor if choice.workers else None,
    )  # fmt: skip
    options = ManyOptions(algorithm, choice.max_sweeps)
    rotates = bool(models.layout.rotated())
    refine = match.refine if rotates else descend
    result = match_many(models, match, resources, options, partial(_on_round, run), refine)
    return replace(result, notes=notes_on_starts(choice)) if rotates else result


@dataclass(frozen=True, slots=True)
class _ByWeights:
    """How one model is brought onto another; on a worker without a cluster, and with nobody to tell."""

    device: str
    choice: MatchChoice
    threads: int = 1
    check: Callable[[], None] = lambda: None

    def __call__(self, problem: Problem, resources: Resources) -> MatchResult:
        if problem.layout.rotated():
            return match_between_forms(problem, self._told(resources))
        executor = resources.executor
        threads = self.threads if executor else 1
        running = Running(self.device, self.check, lambda *_: self.check(), executor=executor, threads=threads)
        choice = self.choice if resources.cluster else replace(self.choice, workers=None)
        return match_by_search(problem, choice, running)

    def refine(self, problem: Problem, resources: Resources, start: Permutation, max_rounds: int) -> MatchResult:
        """Go on from a start with rotations."""
        return match_between_forms(problem, self._told(resources), start, max_rounds)

    def _told(self, resources: Resources) -> Resources:
        return replace(resources, on_step=lambda *_: self.check())

    def __reduce__(self) -> tuple[Any, ...]:
        return _ByWeights, (self.device, replace(self.choice, workers=None))


def _models_by_activations(models: Models, algorithm: Algorithm, choice: MatchChoice, run: MatchRun) -> ManyResult:
    fitting = choice.fitting
    assert fitting is not None

    def pair_problem(i: int, j: int) -> ActivationProblem:
        return activation_problem(fitting, Problem(models.layout, models.states[i], models.states[j]))

    options = ManyOptions(algorithm, choice.max_sweeps)
    resources = Resources(seed=choice.seed)
    return match_many_by_activations(models, pair_problem, resources, options, choice.options, partial(_on_round, run))


def _on_round(run: MatchRun, what: str, done: int, of: int) -> None:
    """Every round over the models has its own bar."""
    if done == 1:
        run.begin(f"matching, {what}", of, "models")
    run.advance(1)
    run.check()
