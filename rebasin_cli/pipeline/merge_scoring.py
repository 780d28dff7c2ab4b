"""What the models of a merge, their plain mean and the merge are worth; the merge with its statistics repaired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite

from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.dtypes import torch_dtype
from rebasin_cli.evaluation.barrier import barrier_above_line
from rebasin_cli.evaluation.scores import Scores
from rebasin_cli.merging.interpolation import interpolated, lambda_grid
from rebasin_cli.merging.models import Mean, Models
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline.points import is_first
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.scoring import CommandScorer, Scorer, score_or_nan
from rebasin_cli.report.document import ScoreRecord
from rebasin_cli.spec import Layout

State = Mapping[str, Tensor]


def role_of(i: int) -> str:
    """What the i-th model is called."""
    return f"model.{i + 1}"


@dataclass(frozen=True, slots=True)
class MergeScores:
    """What was measured of a merge.

    Attributes:
        scores: by role of a model, and of `naive average`, `merged` and its repaired forms.
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
    merged = _WrittenLike(first, Mean(models, permutations, range(len(models))), models.layout)
    found: dict[str, State] = {"merged": merged}
    for kind in scorer.repairs if scorer else ():
        assert scorer is not None
        repairer = scorer.repairer
        assert repairer is not None
        if kind == "repair":
            ordered = (permuted(p, models.layout, s) for p, s in zip(permutations, models.states, strict=True))
            repairer.measure_ends(*ordered)
        found[f"merged + {kind}"] = repairer.between(merged, models.weights, kind)
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
    identity = tuple(Permutation({}) for _ in permutations)
    everyone = range(len(models))
    scorers = [_scorer_of(scorer, file) for file in files]
    failures: dict[str, str] = {}
    inner = lambda_grid(steps)[1:-1]
    pairs = [(i, j) for i in everyone for j in everyone if i < j]
    with progress.phase("judging", len(models) + 1 + len(merged) + 2 * len(pairs) * len(inner), "points") as advance:

        def measure(state: State, name: str, like: int = 0) -> ScoreRecord:
            found = score_or_nan(scorers[like], state, failures, name)
            advance(1)
            return ScoreRecord(found.loss, found.accuracy, found.metrics)

        scores = {role_of(0): ScoreRecord(first.loss, first.accuracy, first.metrics)}
        advance(1)
        own = files if isinstance(scorer, CommandScorer) else models.states
        scores |= {role_of(i): measure(own[i], role_of(i), i) for i in everyone[1:]}
        scores["naive average"] = measure(
            _WrittenLike(files[0], Mean(models, identity, everyone), models.layout), "naive average"
        )
        scores |= {name: measure(state, name) for name, state in merged.items()}
        barriers = {}
        for i, j in pairs:
            found = []
            for perms in (identity, permutations):
                one, two = (permuted(perms[k], models.layout, models.states[k]) for k in (i, j))
                order = "naive" if perms is identity else "in one order"
                like = i if models.states[i] is files[i] else 0  # nothing is written like a view
                losses = []
                for lam in inner:
                    state = interpolated(models.layout, one, two, lam)
                    if isinstance(scorer, CommandScorer):
                        state = _WrittenLike(files[like], state)
                    losses.append(measure(state, f"{role_of(i)} to {role_of(j)}, {order}, λ = {lam:g}", like).loss)
                loss = (scores[role_of(i)].loss, *losses, scores[role_of(j)].loss)
                found.append(barrier_above_line((0.0, *inner, 1.0), loss))
            barriers[i, j] = (found[0], found[1])
    bad = [name for name, score in scores.items() if not isfinite(score.loss) and name not in failures]
    if bad:
        progress.warn(f"the loss of {', '.join(bad)} is not finite")
    for place, why in failures.items():
        progress.warn(f"{place} could not be measured: {why}")
    return MergeScores(scores, barriers, failures)


def _scorer_of(scorer: Scorer, file: Checkpoint) -> Scorer:
    """The scorer of a model and of what is like it: a command is given files with its keys and dtypes."""
    return replace(scorer, like=file) if isinstance(scorer, CommandScorer) else scorer
