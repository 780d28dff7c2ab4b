"""The tables of what was measured: along a path, and of the models of a merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import isnan

from rebasin_cli.report.figures import loss_text, measure_text, percent_text
from rebasin_cli.report.measurements import (
    BarrierRecord,
    CurveRecord,
    MergeRecord,
    PlaneRecord,
    ScoreRecord,
    VerdictRecord,
)

_IN_VERDICT = 2  # curves whose barriers the first line of a summary names
_BESIDE = 4  # columns of figures beside λ that 80 columns of a terminal hold


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text; every column but the first is figures unless named in `words`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)


def curve_grids(barrier: BarrierRecord) -> list[Grid]:
    """What was measured at every λ: loss and accuracy of two curves side by side, of more a table for each measure."""
    curves = barrier.curves
    others = tuple(dict.fromkeys(name for curve in curves.values() for name in curve.metrics))
    measures: dict[str, Callable[[CurveRecord, int], str]] = {
        "loss": lambda curve, i: loss_text(curve.loss[i]),
        **({"accuracy": lambda curve, i: percent_text(curve.accuracy[i])} if barrier.has_accuracy else {}),
        **{name: partial(_metric_text, name) for name in others},
    }
    titles = {"loss": f"Loss in {barrier.loss_unit}", "accuracy": "Accuracy"}
    together = len(curves) * len(measures) <= _BESIDE
    groups = [tuple(measures)] if together else [(name,) for name in measures]
    return [
        Grid(
            ", ".join((titles["loss"], *tuple(measures)[1:])) if together else titles.get(group[0], group[0]),
            ("λ", *(f"{curve} {name}" if together else curve for curve in curves for name in group)),
            tuple(
                (f"{lam:.4f}", *(measures[name](curve, i) for curve in curves.values() for name in group))
                for i, lam in enumerate(barrier.lam)
            ),
            words=(),
        )
        for group in groups
    ]


def sampled_grids(barrier: BarrierRecord, rows: int = 5) -> list[Grid]:
    """The same at a few λ, evenly chosen: one table with loss and accuracy of every curve, and one for each metric."""
    last = len(barrier.lam) - 1
    at = range(last + 1) if last < rows else [round(k * last / (rows - 1)) for k in range(rows)]
    columns = ("λ", *barrier.curves)
    title = f"Loss in {barrier.loss_unit}" + (", accuracy" if barrier.has_accuracy else "")

    def table(title: str, cell: Callable[[CurveRecord, int], str]) -> Grid:
        lines = ((f"{barrier.lam[i]:.4g}", *(cell(curve, i) for curve in barrier.curves.values())) for i in at)
        return Grid(title, columns, tuple(lines), words=())

    def both(curve: CurveRecord, i: int) -> str:
        right = f"  {percent_text(curve.accuracy[i]):>7}" if barrier.has_accuracy else ""
        return loss_text(curve.loss[i]) + right

    others = dict.fromkeys(name for curve in barrier.curves.values() for name in curve.metrics)
    first = table(title, both)
    if len(barrier.curves) > _IN_VERDICT:
        barriers = ("barrier", *(loss_text(curve.barrier) for curve in barrier.curves.values()))
        first = replace(first, rows=(*first.rows, barriers))
    return [first, *(table(name, partial(_metric_text, name)) for name in others)]


def _metric_text(name: str, curve: CurveRecord, i: int) -> str:
    return measure_text(curve.metrics[name][i] if name in curve.metrics else None)


def barrier_grid(barrier: BarrierRecord) -> Grid:
    """Both definitions of the barrier, named."""
    curves = barrier.curves.items()
    rows = (
        ("above the line between the ends (Entezari et al.)", *(loss_text(c.barrier) for _, c in curves)),
        ("above the mean of the ends (Frankle et al.)", *(loss_text(c.barrier_to_mean) for _, c in curves)),
    )
    return Grid(f"Barrier, in {barrier.loss_unit}", ("largest loss", *(name for name, _ in curves)), rows)


def plane_headline(plane: PlaneRecord) -> str:
    """What lies half-way from A to B as it is, and to B aligned, beside the ends."""
    points = plane.points
    middles = [
        f"{name} {loss_text(points[name].loss)}"
        for name in ("middle of A and B", "middle of A and π(B)")
        if name in points
    ]
    ends = [f"{name} {loss_text(points[name].loss)}" for name in ("A", "B") if name in points]
    return "loss: " + ", ".join([*ends, *middles])


def plane_grid(plane: PlaneRecord) -> Grid:
    """The corners and the middles of two sides."""
    right = ("accuracy",) if any(not isnan(point.accuracy) for point in plane.points.values()) else ()
    rows = tuple(
        (
            name, f"{point.x:.4g}", f"{point.y:.4g}", loss_text(point.loss),
            *((percent_text(point.accuracy),) if right else ()),
        )
        for name, point in plane.points.items()
    )  # fmt: skip
    return Grid(f"Plane, loss in {plane.loss_unit}", ("network", "x", "y", "loss", *right), rows)


def merge_headline(merge: MergeRecord, verdict: VerdictRecord | None) -> str:
    """What the merge is worth; without a verdict, how it stands beside its models, or how much closer they came."""
    if verdict is not None:
        return f"{len(merge.weights)} models merged: {verdict.text}"
    scores = merge.scores
    if merge.written is not None:
        losses = [score.loss for name, score in scores.items() if name.startswith("model.")]
        return (
            f"{len(merge.weights)} models merged: loss {loss_text(merge.written.loss)} from "
            f"{loss_text(min(losses))}–{loss_text(max(losses))}, plain mean {loss_text(scores['naive average'].loss)}"
        )
    before, after = (
        sum(getattr(pair, which) for pair in merge.pairs) / len(merge.pairs) for which in ("before", "after")
    )
    return (
        f"{len(merge.weights)} models merged: mean distance between two {measure_text(before)} → {measure_text(after)}"
    )


def merge_grids(merge: MergeRecord, names: Mapping[str, str]) -> list[Grid]:
    """Distances and barriers of every pair, and what each model, the plain mean and the merge are worth.

    Args:
        names: of the models by role, as they are shown.
    """
    barriers = any(pair.aligned is not None for pair in merge.pairs)
    columns = ("models", "distance", "in one order", *(("naive barrier", "barrier in one order") if barriers else ()))
    rows = tuple(
        (
            ", ".join(names.get(role, role) for role in (pair.first, pair.second)),
            measure_text(pair.before), measure_text(pair.after),
            *((loss_text(pair.naive), loss_text(pair.aligned)) if barriers else ()),
        )
        for pair in merge.pairs
    )  # fmt: skip
    found = [Grid(f"Pairs, {merge.algorithm}", columns, rows)]
    if merge.scores:
        scores = {names.get(name, name): score for name, score in merge.scores.items()}
        found.append(worth_grid(scores, merge.loss_unit))
    return found


def worth_grid(scores: Mapping[str, ScoreRecord], unit: str) -> Grid:
    """What each network is worth."""
    has_accuracy = any(not isnan(score.accuracy) for score in scores.values())
    others = tuple(dict.fromkeys(name for score in scores.values() for name in score.metrics))
    rows = tuple(
        (
            name, loss_text(score.loss), *((percent_text(score.accuracy),) if has_accuracy else ()),
            *(measure_text(score.metrics.get(other)) for other in others),
        )
        for name, score in scores.items()
    )  # fmt: skip
    right = ("accuracy",) if has_accuracy else ()
    return Grid(f"Worth, loss in {unit}", ("network", "loss", *right, *others), rows)
