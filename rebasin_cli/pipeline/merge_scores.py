"""What the models of a merge, their plain mean and the merge are worth; the merge with its statistics repaired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from torch import Tensor

from rebasin_cli.evaluation import barrier_above_line
from rebasin_cli.matching.models import Mean, Models
from rebasin_cli.merging import interpolated, lambda_grid
from rebasin_cli.permutation import Permutation, permuted
from rebasin_cli.pipeline.judges import Judge, measured
from rebasin_cli.pipeline.listener import Listener
from rebasin_cli.report.document import ScoreRecord

State = Mapping[str, Tensor]


def role_of(i: int) -> str:
    """What the i-th model is called."""
    return f"model.{i + 1}"


def merged_states(
    judge: Judge | None, models: Models, permutations: Sequence[Permutation], listener: Listener
) -> dict[str, State]:
    """The mean in one order, and the same repaired as was asked for, by name."""
    merged = Mean(models, permutations, range(len(models)))
    found: dict[str, State] = {"merged": merged}
    for kind in judge.repairs if judge else ():
        assert judge is not None
        repairer = judge.repairer
        assert repairer is not None
        if kind == "repair":
            ordered = (permuted(p, models.layout, s) for p, s in zip(permutations, models.states, strict=True))
            repairer.measure_ends(*ordered)
        found[f"merged + {kind}"] = repairer.between(merged, models.weights, kind)
    return found


def judge_merge(
    judge: Judge,
    models: Models,
    permutations: Sequence[Permutation],
    merged: Mapping[str, State],
    steps: int,
    listener: Listener,
) -> tuple[dict[str, ScoreRecord], dict[tuple[int, int], tuple[float, float]]]:
    """Scores by name, and both barriers of every pair: as the two are, and in one order.

    Args:
        merged: see `merged_states`.
        steps: points of the lines between models.
    """
    identity = tuple(Permutation({}) for _ in permutations)
    everyone = range(len(models))
    points: dict[str, State] = {role_of(i): state for i, state in enumerate(models.states)}
    points["naive average"] = Mean(models, identity, everyone)
    points |= merged
    failures: dict[str, str] = {}
    inner = lambda_grid(steps)[1:-1]
    pairs = [(i, j) for i in everyone for j in everyone if i < j]
    with listener.phase("judging", len(points) + 2 * len(pairs) * len(inner), "points") as advance:

        def measure(state: State, name: str) -> ScoreRecord:
            found = measured(judge, state, failures, name)
            advance(1)
            return ScoreRecord(found.loss, found.accuracy, found.metrics)

        scores = {name: measure(state, name) for name, state in points.items()}
        barriers = {}
        for i, j in pairs:
            found = []
            for perms in (identity, permutations):
                one, two = (permuted(perms[k], models.layout, models.states[k]) for k in (i, j))
                between = [
                    measure(interpolated(models.layout, one, two, lam), f"{role_of(i)} to {role_of(j)}").loss
                    for lam in inner
                ]
                loss = (scores[role_of(i)].loss, *between, scores[role_of(j)].loss)
                found.append(barrier_above_line((0.0, *inner, 1.0), loss))
            barriers[i, j] = (found[0], found[1])
    bad = [name for name, score in scores.items() if not isfinite(score.loss) and name not in failures]
    if bad:
        listener.warn(f"the loss of {', '.join(bad)} is not finite")
    for place, why in failures.items():
        listener.warn(f"{place} could not be measured: {why}")
    return scores, barriers
