"""What the models of a merge, their plain mean and the merge are worth; the merge with its statistics repaired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import isfinite

from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.tensors import torch_dtype
from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.barrier import barrier_above_line
from rebasin_cli.evaluation.scores import Scores
from rebasin_cli.merging.interpolation import interpolated
from rebasin_cli.merging.models import Mean, Models
from rebasin_cli.merging.options import lambda_grid
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline import Advance, Progress
from rebasin_cli.pipeline.points import is_first
from rebasin_cli.pipeline.record import role_of, score_record
from rebasin_cli.pipeline.scoring import CommandScorer, NetworkScorer, Scorer, score_or_nan
from rebasin_cli.report.measurements import ENSEMBLE, ScoreRecord
from rebasin_cli.spec import Layout

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class MergeScores:
    """What was measured of a merge.

    Attributes:
        scores: by role of a model, and of `ensemble`, `naive average`, `merged` and the repaired forms of both.
        barriers: of every pair, as the two are and in one order.
        failures: why a network could not be measured, by what it is.
    """

    scores: Mapping[str, ScoreRecord] = field(default_factory=dict)
    barriers: Mapping[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)


class _WrittenLike(Mapping[str, Tensor]):
    """A state as it would be written like a checkpoint: with its keys and dtypes, and its tensors where there are none.

    Args:
        layout: what has no mean is the checkpoint's, too: integers, and what the spec ignores.
    """

    def __init__(self, like: Checkpoint, state: State, layout: Layout | None = None) -> None:
        self._like, self._state, self._layout = like, state, layout

    def __getitem__(self, key: str) -> Tensor:
        if self._layout is not None and is_first(self._layout, self._like, key):
            return self._like[key]
        try:
            return self._state[key].to(torch_dtype(self._like.infos[key].dtype))
        except KeyError:  # asked like so, since a lazy state would be worked out to tell whether it has the key
            return self._like[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._like)

    def __len__(self) -> int:
        return len(self._like)


def merged_states(
    scorer: Scorer | None, models: Models, permutations: Sequence[Permutation], first: Checkpoint
) -> dict[str, State]:
    """The mean in one order as it is written, and the same repaired as was asked for, by name."""
    return _with_repairs("merged", scorer, models, permutations, first)


def _with_repairs(
    name: str, scorer: Scorer | None, models: Models, permutations: Sequence[Permutation], first: Checkpoint
) -> dict[str, State]:
    """The mean of the models in these orders, as it is written, and repaired in every way that was asked for."""
    mean = _WrittenLike(first, Mean(models, permutations, range(len(models))), models.layout)
    found: dict[str, State] = {name: mean}
    repairer = scorer.repairer if scorer else None
    if scorer is None or repairer is None:
        return found
    repairer = replace(repairer, ends=None)
    for kind in scorer.repairs:
        if kind == "repair":
            ordered = (permuted(p, models.layout, s) for p, s in zip(permutations, models.states, strict=True))
            repairer.measure_ends(*ordered)
        found[f"{name} + {kind}"] = repairer.between(mean, models.weights, kind)
    return found


def score_merge(
    scorer: Scorer,
    models: Models,
    files: Sequence[Checkpoint],
    permutations: Sequence[Permutation],
    merged: Mapping[str, State],
    first: Scores,
    steps: int,
    progress: Progress,
) -> MergeScores:
    """Scores by name, and both barriers of every pair: as the two are, and in one order.

    Args:
        files: the models as they were opened, of which those in `models` may be views.
        merged: see `merged_states`; first: what the first model is worth.
        steps: points of the lines between models.
    """
    inner = lambda_grid(steps)[1:-1]
    pairs = list(combinations(range(len(models)), 2))
    count = len(models) + 2 * len(merged) + 2 * len(pairs) * len(inner)
    with progress.phase("judging", count, "points") as advance:
        run = _Scoring(scorer, models, files, advance, progress)
        scores = run.scores(merged, first, permutations)
        barriers = {pair: run.barriers(pair, permutations, inner, scores) for pair in pairs}
    bad = [name for name, score in scores.items() if not isfinite(score.loss) and name not in run.failures]
    if bad:
        progress.warn(f"the loss of {', '.join(bad)} is not finite")
    for place, why in run.failures.items():
        progress.warn(f"{place} could not be measured: {why}")
    return MergeScores(scores, barriers, run.failures)


@dataclass(frozen=True, slots=True)
class _Scoring:
    """Scores states of a merge, and remembers why one could not be scored."""

    scorer: Scorer
    models: Models
    files: Sequence[Checkpoint]
    advance: Advance
    progress: Progress
    failures: dict[str, str] = field(default_factory=dict)

    def score(self, state: State, name: str, like: int = 0) -> ScoreRecord:
        """What a state is worth that would be written like the model of that number."""
        found = score_or_nan(_scorer_of(self.scorer, self.files[like]), state, self.failures, name)
        self.advance(1)
        return score_record(found)

    def scores(
        self, merged: Mapping[str, State], first: Scores, permutations: Sequence[Permutation]
    ) -> dict[str, ScoreRecord]:
        """Of every model, of all as an ensemble, of the mean of the models as they are, and of the merge."""
        models, files = self.models, self.files
        everyone = range(len(models))
        found = {role_of(0): score_record(first)}
        self.advance(1)
        own = files if isinstance(self.scorer, CommandScorer) else models.states
        found |= {role_of(i): self.score(own[i], role_of(i), i) for i in everyone[1:]}
        found |= ensemble_score(self.scorer, models.states, models.weights, self.progress)
        naive = _with_repairs("naive average", self.scorer, models, _identity(permutations), files[0])
        return found | {name: self.score(state, name) for name, state in (naive | dict(merged)).items()}

    def barriers(
        self,
        pair: tuple[int, int],
        permutations: Sequence[Permutation],
        inner: Sequence[float],
        scores: Mapping[str, ScoreRecord],
    ) -> tuple[float, float]:
        """Barriers between two models: as they are, and in one order."""
        ends = [scores[role_of(i)].loss for i in pair]
        found = []
        for order, perms in (("naive", _identity(permutations)), ("in one order", permutations)):
            losses = self.losses(pair, perms, inner, order)
            found.append(barrier_above_line((0.0, *inner, 1.0), (ends[0], *losses, ends[1])))
        return found[0], found[1]

    def losses(
        self, pair: tuple[int, int], permutations: Sequence[Permutation], inner: Sequence[float], order: str
    ) -> list[float]:
        """Losses between two models, without their own."""
        models, (i, j) = self.models, pair
        one, two = (permuted(permutations[k], models.layout, models.states[k]) for k in pair)
        like = i if models.states[i] is self.files[i] else 0  # nothing is written like a view
        found = []
        for lam in inner:
            state = interpolated(models.layout, one, two, lam)
            if isinstance(self.scorer, CommandScorer):
                state = _WrittenLike(self.files[like], state)
            found.append(self.score(state, f"{role_of(i)} to {role_of(j)}, {order}, λ = {lam:g}", like).loss)
        return found


def ensemble_score(
    scorer: Scorer, states: Sequence[State], weights: Sequence[float], progress: Progress
) -> dict[str, ScoreRecord]:
    """What the models' mean answers are worth, by name; nothing without a network, or where there is no mean."""
    if not isinstance(scorer, NetworkScorer):
        return {}
    try:
        found = scorer.measure_together(states, weights)
    except ContentError as error:
        progress.remark(f"the ensemble is not measured: {error.what}")
        return {}
    return {ENSEMBLE: score_record(found)}


def _identity(permutations: Sequence[Permutation]) -> tuple[Permutation, ...]:
    """Permutations of the same models that move nothing."""
    return tuple(Permutation({}) for _ in permutations)


def _scorer_of(scorer: Scorer, file: Checkpoint) -> Scorer:
    """The scorer of a model and of what is like it: a command is given files with its keys and dtypes."""
    return replace(scorer, like=file) if isinstance(scorer, CommandScorer) else scorer
