"""What one point of a path is worth beside its ends, their ensemble and the plain mean; and the verdict, said aloud."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isnan

from msgspec import structs
from torch import Tensor

from rebasin_cli.merging.interpolation import interpolated
from rebasin_cli.merging.options import Blend
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.merge_scoring import ensemble_score
from rebasin_cli.pipeline.record import score_record
from rebasin_cli.pipeline.resume import place_of
from rebasin_cli.pipeline.scoring import Scorer, score_or_nan
from rebasin_cli.pipeline.sweep import Sweep
from rebasin_cli.report.measurements import BarrierRecord, ScoreRecord, VerdictRecord
from rebasin_cli.report.worth import judge

State = Mapping[str, Tensor]


def told(verdict: VerdictRecord, progress: Progress) -> VerdictRecord:
    """The verdict, said as soon as it is known."""
    progress.judged(f"verdict: {verdict.text}", bad=verdict.bad)
    return verdict


@dataclass(frozen=True, slots=True)
class Point:
    """The point of a path that is written; `polished` are its states with fitted weights, by how, the last written."""

    permutation: Permutation | None
    lam: float
    blend: Blend
    polished: Mapping[str, State]


def point_verdict(sweep: Sweep, point: Point, barrier: BarrierRecord, progress: Progress) -> VerdictRecord:
    """What a point is worth; those that the curves of `barrier` have are taken from there."""
    pair, scorer, lam, blend = sweep.pair, sweep.scorer, point.lam, point.blend
    known = barrier if blend == sweep.blend else structs.replace(barrier, naive=None, aligned=None, repaired={})
    weights = (1 - lam, lam)
    found = [("A", _known(barrier, "naive", 0.0)), ("B", _known(barrier, "naive", 1.0))]
    scores = {name: score for name, score in found if score is not None}
    scores |= ensemble_score(scorer, (pair.a, pair.b), weights, progress)
    orders: dict[str, State] = {"naive": pair.b}
    if point.permutation is not None:
        orders["aligned"] = permuted(point.permutation, pair.layout, pair.b)
    failures: dict[str, str] = {}
    for name, b in orders.items():
        state = interpolated(pair.layout, pair.a, b, lam, blend)
        scores[name] = _known(known, name, lam) or _score(scorer, state, failures, name)
        repairer = replace(scorer.repairer, ends=None) if scorer.repairer else None
        for kind in scorer.repairs if repairer else ():
            assert repairer is not None
            repaired = f"{name} + {kind}"
            score = _known(known, repaired, lam)
            if kind == "repair" and score is None:
                repairer.measure_ends(pair.a, b)
            scores[repaired] = score or _score(scorer, repairer.finish(state, lam, kind), failures, repaired)
    for how, state in point.polished.items():
        polished = f"{list(orders)[-1]} + {how}"
        scores[polished] = _score(scorer, state, failures, polished)
    for place, why in failures.items():
        progress.warn(f"{place} at λ = {lam:g} could not be measured: {why}")
    return structs.replace(judge(scores, ("A", "B"), weights), scores=scores)


def _score(scorer: Scorer, state: State, failures: dict[str, str], name: str) -> ScoreRecord:
    found = score_or_nan(scorer, state, failures, name)
    return score_record(found)


def _known(barrier: BarrierRecord, name: str, lam: float) -> ScoreRecord | None:
    """What a curve has at λ; None if there is no such curve or point, or it could not be measured."""
    curve = barrier.curves.get(name)
    at = next((i for i, x in enumerate(barrier.lam) if place_of(x) == place_of(lam)), None)
    if curve is None or at is None or (isnan(curve.loss[at]) and lam not in (0.0, 1.0)):
        return None
    metrics = {name: values[at] for name, values in curve.metrics.items()}
    return ScoreRecord(curve.loss[at], curve.accuracy[at], metrics, curve.reliability[at] if curve.reliability else ())
