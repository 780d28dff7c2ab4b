"""What is drawn of a run document that is too long to be drawn: of many points some, of a long table its beginning.

A document may have a hundred thousand of either, by `--steps` or because a stranger wrote it. A chart has 480 places,
and nobody reads that many rows. What is left out is said; the document, which `--json` prints, has all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as replaced
from math import isfinite
from typing import TypeVar

from msgspec.structs import replace

from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.measured import Grid
from rebasin_cli.report.measurements import BarrierRecord, CurveRecord

_Value = TypeVar("_Value")

MOST_POINTS = 1000
"""Points of a line that are drawn: more than a chart or a terminal has places."""

MOST_ROWS = 1000
"""Rows of a table that are drawn."""


def thinned(document: RunDocument) -> RunDocument:
    """The document with `MOST_POINTS` points of its line and a warning that says so, or as it is if it has no more."""
    barrier = document.barrier
    if barrier is None or len(barrier.lam) <= MOST_POINTS:
        return document
    fewer = thinned_barrier(barrier)
    note = f"{len(fewer.lam):,} of the {len(barrier.lam):,} points of the line are shown; the run document has all"
    return replace(document, barrier=fewer, warnings=(*document.warnings, note))


def thinned_barrier(barrier: BarrierRecord) -> BarrierRecord:
    """Points at even distances, both ends among them, and of every curve the lowest and the highest loss."""
    last = len(barrier.lam) - 1
    if last < MOST_POINTS:
        return barrier
    kept = {round(k * last / (MOST_POINTS - 1)) for k in range(MOST_POINTS)}
    for curve in barrier.curves.values():
        finite = [at for at, loss in enumerate(curve.loss) if isfinite(loss)]
        if finite:
            kept |= {pick(finite, key=curve.loss.__getitem__) for pick in (min, max)}
    places = sorted(kept)

    def curve_at(curve: CurveRecord | None) -> CurveRecord | None:
        if curve is None:
            return None
        metrics = {name: _at(values, places) for name, values in curve.metrics.items()}
        return replace(
            curve, loss=_at(curve.loss, places), accuracy=_at(curve.accuracy, places), metrics=metrics,
            reliability=_at(curve.reliability, places) if curve.reliability else (),
        )  # fmt: skip

    return replace(
        barrier,
        lam=_at(barrier.lam, places),
        naive=curve_at(barrier.naive),
        aligned=curve_at(barrier.aligned),
        repaired={name: shown for name, curve in barrier.repaired.items() if (shown := curve_at(curve))},
    )


def shortened(grid: Grid) -> Grid:
    """The first `MOST_ROWS` rows, and one that says how many there are; all if there are no more."""
    more = len(grid.rows) - MOST_ROWS
    if more <= 0:
        return grid
    told = (f"… and {more:,} more; the run document (--json) has all", *[""] * (len(grid.columns) - 1))
    return replaced(grid, rows=(*grid.rows[:MOST_ROWS], told))


def _at(values: Sequence[_Value], places: Sequence[int]) -> tuple[_Value, ...]:
    return tuple(values[at] for at in places)
