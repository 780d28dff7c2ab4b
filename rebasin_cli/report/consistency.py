"""Whether the figures of a run document go together: what types cannot tell, and every form of a report relies on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, pairwise

from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.measurements import BarrierRecord, BinRecord, CurveRecord, MergeRecord, PlaneRecord

MOST_CURVES = 100
"""Curves of a line, and measures of a curve: every one is laid out, and no run has nearly as many."""

_ROUNDING = 1e-9  # of a mean of probabilities
_LARGEST = 1e100  # of a loss or a metric: float32 ends at 3e38, and the difference of two can still be drawn


def contradiction(document: RunDocument) -> str | None:
    """The first thing that does not go together, in words; None if all does."""
    barrier = () if document.barrier is None else _of_barrier(document.barrier)
    merge = () if document.merge is None else _of_merge(document.merge)
    plane = () if document.plane is None else _of_plane(document.plane)
    return next(chain(barrier, merge, plane), None)


def _of_barrier(barrier: BarrierRecord) -> Iterator[str]:
    lam = barrier.lam
    for name, many in (("barrier.repaired", barrier.repaired), *((n, c.metrics) for n, c in barrier.curves.items())):
        if len(many) > MOST_CURVES:
            yield f"`{name[:40]}` has {len(many):,} entries, and up to {MOST_CURVES} are drawn"
    if not all(0 <= each <= 1 for each in lam) or not all(before < after for before, after in pairwise(lam)):
        yield "`barrier.lambda` does not ascend from 0 to 1"
    if barrier.curves and not lam:
        yield "`barrier.lambda` is empty"
    for name, curve in barrier.curves.items():
        yield from _of_curve(name, curve, len(lam))


def _of_curve(name: str, curve: CurveRecord, points: int) -> Iterator[str]:
    measures: Mapping[str, tuple[float, ...]] = {"loss": curve.loss, "accuracy": curve.accuracy, **curve.metrics}
    for measure, values in measures.items():
        if len(values) != points:
            yield f"the {name[:40]} curve has {len(values)} values of {measure[:40]}, and `barrier.lambda` {points}"
        if any(abs(value) > _LARGEST for value in values):
            yield f"the {name[:40]} curve has a value of {measure[:40]} above {_LARGEST:g}"

    if curve.reliability and len(curve.reliability) != points:
        yield f"the {name[:40]} curve has {len(curve.reliability)} values of reliability, and `barrier.lambda` {points}"
    if any(not _is_bin(each) for bins in curve.reliability for each in bins):
        yield f"the {name[:40]} curve has answers of a confidence or an accuracy beyond 0 to 1, or none of them"


def _is_bin(each: BinRecord) -> bool:
    return each.count > 0 and 0 <= each.confidence <= 1 + _ROUNDING and 0 <= each.accuracy <= 1


def _of_plane(plane: PlaneRecord) -> Iterator[str]:
    for name, axis in (("x", plane.x), ("y", plane.y)):
        if len(axis) < 2 or not all(before < after for before, after in pairwise(axis)):
            yield f"`plane.{name}` does not ascend"
        if any(abs(value) > _LARGEST for value in axis):
            yield f"`plane.{name}` has a value above {_LARGEST:g}"
    for name, rows in (("loss", plane.loss), ("accuracy", plane.accuracy)):
        if [len(row) for row in rows] != [len(plane.x)] * len(plane.y):
            yield f"`plane.{name}` has not a row for each y and a value for each x"
        if any(abs(value) > _LARGEST for row in rows for value in row):
            yield f"`plane.{name}` has a value above {_LARGEST:g}"
    if any(abs(v) > _LARGEST for point in plane.points.values() for v in (point.x, point.y, point.loss)):
        yield f"`plane.points` has a value above {_LARGEST:g}"


def _of_merge(merge: MergeRecord) -> Iterator[str]:
    if not merge.pairs:
        yield "`merge.pairs` is empty"
    others = {name for name in merge.scores if name == "naive average" or name.startswith("model.")}
    if any(not _is_bin(each) for score in merge.scores.values() for each in score.reliability):
        yield "`merge.scores` has answers of a confidence or an accuracy beyond 0 to 1, or none of them"
    if "merged" in merge.scores and not (others - {"naive average"} and "naive average" in others):
        yield "`merge.scores` has the merged network, and not its models and their plain mean"
