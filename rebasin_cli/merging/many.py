"""Bringing N models into one order of units: a permutation a model, to a universe that they share.

All algorithms raise the same objective, Σ_{i<j} w_i w_j ⟨π_i(M_i), π_j(M_j)⟩, which is the sum of the weighted squared
distances between all models with its sign turned. What permutes model j onto model i is π_i⁻¹ after π_j, so that the
way around any cycle of models leads back to where it began (cycle consistency, C2M3, arXiv:2405.17897).

The objective and all distances between models stay as they are when all permutations are followed by one more; at the
end the first model's units are put back into their own order, and it is the others that move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

import torch

from rebasin_cli.matching.descent.settling import is_tie, settled
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.options import STARTS, WeightsOptions
from rebasin_cli.matching.problem import MatchResult, Problem, Resources, State, Stop, StopMatching
from rebasin_cli.matching.resources import in_order
from rebasin_cli.merging.frank_wolfe_many import check_joint, frank_wolfe_many
from rebasin_cli.merging.models import Mean, Means, Models, total_similarity
from rebasin_cli.merging.options import Algorithm, ManyOptions
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout

Match = Callable[[Problem, Resources], MatchResult]
Refine = Callable[[Problem, Resources, Permutation, int], MatchResult]
"""How a model that is brought onto another already goes on from its present permutation, for so many sweeps at most."""
OnRound = Callable[[str, int, int], None]
"""Called with what is done, how many steps of the round are, and of how many; it may raise `StopMatching`."""

_GAIN = 1e-7

FAR = 0.01
"""Models whose match from the start has ended so far below where they are, as a share, are not matched from it again:
with those that were, eight BLSTMs, five of them and five MLPs ended at the same objectives."""


@dataclass(frozen=True, slots=True)
class ManyResult:
    """Permutations of N models into the order of the first.

    Attributes:
        permutations: one a model; the first is the identity.
        objective: Σ_{i<j} w_i w_j ⟨π_i(M_i), π_j(M_j)⟩: as they are, then after every round; never falling.
        seconds: wall time; matches: how many pairwise matches.
        notes: what whoever reads the result must know.
    """

    algorithm: Algorithm
    permutations: tuple[Permutation, ...]
    objective: tuple[float, ...]
    stop: Stop
    seed: int
    seconds: float
    matches: int
    notes: tuple[str, ...] = ()


def descend(problem: Problem, resources: Resources, start: Permutation, max_sweeps: int) -> MatchResult:
    """Go on by coordinate descent."""
    return match_by_weights(problem, resources, WeightsOptions(start=start, max_sweeps=max_sweeps))


@dataclass(slots=True)
class _Run:
    """What the algorithms share: the pairwise matchers and how far they are.

    Attributes:
        means: of all models but one.
    """

    models: Models
    match: Match
    go_on: Refine
    resources: Resources
    max_rounds: int
    on_round: OnRound | None
    objective: list[float] = field(default_factory=list)
    matches: int = 0
    stop: Stop = "converged"
    means: Means = field(init=False)

    def __post_init__(self) -> None:
        self.means = Means(self.models, self.resources.memory)

    def tell(self, what: str, done: int, of: int) -> None:
        if self.on_round:
            self.on_round(what, done, of)

    def each_onto(self, pairs: Sequence[tuple[State, State]]) -> Iterator[MatchResult]:
        """For each pair (a, b), in order, what brings `b` onto `a`; one that is alone gets the executor for itself."""
        cluster, executor, at_once = self.resources.cluster, self.resources.executor, self.resources.at_once
        several = len(pairs) > 1 and at_once > 1
        alone = replace(self.resources, executor=None, cluster=None) if several else self.resources
        tasks = (partial(self.match, Problem(self.models.layout, a, b), alone) for a, b in pairs)
        with closing(in_order(tasks, cluster or executor if several else None, at_once)) as results:
            for result in results:
                self.matches += 1
                yield result

    def refine(self, a: State, b: State, present: Permutation, sweeps: int) -> MatchResult:
        """Descend from the present permutation."""
        self.matches += 1
        return self.go_on(Problem(self.models.layout, a, b), self.resources, present, sweeps)


def match_many(
    models: Models,
    match: Match,
    resources: Resources = Resources(),
    options: ManyOptions = ManyOptions(),
    on_round: OnRound | None = None,
    refine: Refine = descend,
) -> ManyResult:
    """Match N models to one another by their weights.

    Args:
        match: how one model is brought onto another, at first; refine: how it goes on from there.
        resources: the executor runs `at_once` matches at a time where they do not depend on each other; a match that
            is alone gets it for its own parts.

    Raises:
        ContentError: `frank-wolfe`, where no dims can move together or memory does not hold all models.
    """
    layout = models.layout
    run = _Run(models, match, refine, resources, options.max_rounds, on_round)
    began = perf_counter()
    start = (Permutation.identity(layout),) * len(models)
    run.objective.append(total_similarity(models, start))
    found = in_order_of_first(layout, _ALGORITHMS[options.algorithm](run, start))
    return ManyResult(
        algorithm=options.algorithm,
        permutations=_settled(models, found, run.objective[-1]),
        objective=tuple(run.objective),
        stop=run.stop,
        seed=resources.seed,
        seconds=perf_counter() - began,
        matches=run.matches,
    )


def in_order_of_first(layout: Layout, permutations: Sequence[Permutation]) -> tuple[Permutation, ...]:
    """All followed by what undoes the first one, which becomes the identity."""
    undone = permutations[0].inverse(layout)
    return (Permutation.identity(layout), *(perm.compose(undone, layout) for perm in permutations[1:]))


def _settled(models: Models, permutations: tuple[Permutation, ...], reached: float) -> tuple[Permutation, ...]:
    """Every model but the first with units in its own order that gain nothing by being elsewhere; as it is found where
    units are mixed, so that none is as good in another place."""
    found = list(permutations)
    for i in range(1, len(found)) if not models.layout.rotated() else ():
        others = [j for j in range(len(found)) if j != i]
        problem = Problem(models.layout, Mean(models, found, others), models.states[i])
        found[i] = settled(problem, found[i], reached)
    return tuple(found)


def _to_first(run: _Run, present: tuple[Permutation, ...]) -> tuple[Permutation, ...]:
    found = list(present)
    models = run.models
    first, *others = models.states
    try:
        for i, result in enumerate(run.each_onto([(first, other) for other in others]), 1):
            found[i] = result.permutation
            run.tell("to the first", i, len(models) - 1)
    except StopMatching as wish:
        run.stop = wish.stop
    return _keep_better(run, present, tuple(found))


def _hierarchical(run: _Run, present: tuple[Permutation, ...]) -> tuple[Permutation, ...]:
    """Neighbours are matched, mean to mean, and become one group, until one is left."""
    found = list(present)
    models = run.models
    groups: list[tuple[int, ...]] = [(i,) for i in range(len(models))]
    done = 0

    def mean(group: tuple[int, ...]) -> State:
        return Mean(models, found, group) if len(group) > 1 else models.states[group[0]]  # as it is: nothing moved it

    try:
        while len(groups) > 1:
            pairs = list(zip(groups[::2], groups[1::2], strict=False))
            results = run.each_onto([(mean(one), mean(two)) for one, two in pairs])
            for (_, two), result in zip(pairs, results, strict=True):
                for i in two:
                    found[i] = found[i].compose(result.permutation, models.layout)
                done += 1
                run.tell("pair by pair", done, len(models) - 1)
            groups = [(*one, *two) for one, two in pairs] + ([groups[-1]] if len(groups) % 2 else [])
    except StopMatching as wish:
        run.stop = wish.stop
    return _keep_better(run, present, tuple(found))


def _merge_many(run: _Run, present: tuple[Permutation, ...]) -> tuple[Permutation, ...]:
    """Algorithm 3 of the paper; the first visit to a model matches it afresh, later ones go on from where it is."""
    models = run.models
    generator = torch.Generator().manual_seed(run.resources.seed)
    found = list(present)
    for round_ in range(run.max_rounds):
        gained = 0.0
        for step, i in enumerate(torch.randperm(len(models), generator=generator).tolist()):
            mean = run.means.without(i, found)
            stayed = run.refine(mean, models.states[i], found[i], sweeps=100)
            placed = _placed(run, i, mean, stayed, again=round_ == 0)
            found[i] = placed.permutation
            gained += models.weights[i] * (1 - models.weights[i]) * placed.gain
            if not _told(run, f"round {round_ + 1}", step + 1, len(models)):
                break
        if _ends(run, gained):
            return tuple(found)
    run.stop = "max-sweeps"
    return tuple(found)


def _cycle_consistent(run: _Run, present: tuple[Permutation, ...]) -> tuple[Permutation, ...]:
    """Pair by pair, then all models together.

    All models onto the first began lower in all of nine sets of three to five networks, and of six of them it ended
    higher in three and lower in three.
    """
    return _together(run, _hierarchical(run, present))


def _together(run: _Run, present: tuple[Permutation, ...]) -> tuple[Permutation, ...]:
    """One sweep of each model in turn against the mean of the others.

    Where that gains nothing more, every model is matched once from the start to the mean of the others, and it goes on
    from there if one came nearer; the next time without those that came nowhere near. A model that had nothing to gain
    where it is has nothing to gain until another one moves.
    """
    found = list(present)
    models = run.models
    promising = set(range(len(models))) if len(models) > 2 else set()
    second_look = False
    at_rest: dict[int, MatchResult] = {}
    for round_ in range(run.max_rounds if run.stop == "converged" else 0):
        gained = 0.0
        for i in range(len(models)):
            mean, again = run.means.without(i, found), second_look and i in promising
            stayed = at_rest.get(i) or run.refine(mean, models.states[i], found[i], 100 if second_look else 1)
            placed = _placed(run, i, mean, stayed, again=again)
            if placed.permutation.equals(found[i]):
                at_rest[i] = replace(stayed, objective=stayed.objective[-1:])
            else:
                at_rest.clear()
            found[i] = placed.permutation
            if placed.from_start < placed.reached - FAR * abs(placed.reached):
                promising.discard(i)
            gained += models.weights[i] * (1 - models.weights[i]) * placed.gain
            if not _told(run, f"round {round_ + 1}", i + 1, len(models)):
                break
        rested = _ends(run, gained)
        if rested and (second_look or run.stop != "converged" or not promising):
            return tuple(found)
        second_look = rested
    run.stop = "max-sweeps" if run.stop == "converged" else run.stop
    return tuple(found)


def _frank_wolfe(run: _Run, present: tuple[Permutation, ...]) -> tuple[Permutation, ...]:
    """Cycle-consistent, and what Frank-Wolfe on all models finds from two starts; the best after the same rounds."""
    check_joint(run.models)
    best, value = _cycle_consistent(run, present), run.objective[-1]
    for start in STARTS:
        if run.stop != "converged":
            break
        tell = partial(_told, run, f"frank-wolfe, {start}")
        held = in_order_of_first(run.models.layout, best)
        found = frank_wolfe_many(run.models, held, start=start, device=run.resources.device, tell=tell)
        trial = replace(run, objective=[total_similarity(run.models, found)])
        found = _together(trial, found)
        run.matches, run.stop = trial.matches, trial.stop
        if trial.objective[-1] > value:
            best, value = found, trial.objective[-1]
            run.objective.append(value)
    return best


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where a model came to stand beside the mean of the others.

    Attributes:
        reached: ⟨mean, π(model)⟩ there; gain: by how much it rose.
        from_start: what a match from the start reached, `reached` if there was none.
    """

    permutation: Permutation
    reached: float
    gain: float
    from_start: float


def _placed(run: _Run, i: int, mean: State, stayed: MatchResult, *, again: bool) -> _Placed:
    """The better of where a model is led from where it is and, `again`, from the start to the mean of the others."""
    (afresh,) = run.each_onto([(mean, run.models.states[i])]) if again else (stayed,)
    value, other = stayed.objective[-1], afresh.objective[-1]
    best = afresh if other > value and not is_tie(other, value) else stayed
    return _Placed(best.permutation, best.objective[-1], best.objective[-1] - stayed.objective[0], other)


def _told(run: _Run, what: str, done: int, of: int) -> bool:
    """Tell how far it is; False if that was enough."""
    try:
        run.tell(what, done, of)
    except StopMatching as wish:
        run.stop = wish.stop
        return False
    return True


def _ends(run: _Run, gained: float) -> bool:
    """Note a round; whether it was the last."""
    run.objective.append(run.objective[-1] + gained)
    return run.stop != "converged" or gained <= _GAIN * abs(run.objective[-1])


def _keep_better(run: _Run, before: tuple[Permutation, ...], after: tuple[Permutation, ...]) -> tuple[Permutation, ...]:
    """Models may be further apart among themselves than before, though each came nearer to one: then leave them."""
    value = total_similarity(run.models, after)
    run.objective.append(max(value, run.objective[-1]))
    return after if value >= run.objective[-2] else before


_ALGORITHMS: Mapping[Algorithm, Callable[[_Run, tuple[Permutation, ...]], tuple[Permutation, ...]]] = {
    "merge-many": _merge_many,
    "cycle-consistent": _cycle_consistent,
    "frank-wolfe": _frank_wolfe,
    "to-first": _to_first,
    "hierarchical": _hierarchical,
}
ALGORITHMS: tuple[Algorithm, ...] = tuple(_ALGORITHMS)
