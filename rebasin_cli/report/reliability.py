"""How sure networks are beside how often they are right: what a reliability diagram shows (arXiv:1706.04599).

Of a line both ends and the middle of every curve are shown, of a merge every network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, isfinite

from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.figures import percent_text
from rebasin_cli.report.looks import DIFFERENT, PLACE
from rebasin_cli.report.measured import Grid
from rebasin_cli.report.measurements import BarrierRecord, BinRecord
from rebasin_cli.report.names import input_names
from rebasin_cli.report.series import Measure, Series

_BINS = 15
_NONE = "-"
_PLACE_OF_END = {"A": 5, "B": 6}

Bins = tuple[BinRecord, ...]


def reliability_grid(document: RunDocument) -> Grid | None:
    """A line for each network: its figures, and how many tenths are right, by confidence; None if nothing is known."""
    networks = _networks(document)
    if not networks:
        return None
    rows = tuple(
        (
            name, percent_text(_mean(bins, [abs(each.accuracy - each.confidence) for each in bins])),
            percent_text(_mean(bins, [each.confidence for each in bins])),
            percent_text(_mean(bins, [each.accuracy for each in bins])), _digits(bins),
        )
        for name, _, bins in networks
    )  # fmt: skip
    sure = [(k + 0.5) / _BINS for k in range(_BINS)]
    perfect = ("as sure as right", "0.0 %", "", "", _digits(tuple(BinRecord(1, each, each) for each in sure)))
    columns = ("network", "error", "sure", "right", "tenths right, sure from 0 to 1")
    return Grid(
        "Calibration: mean difference of confidence and accuracy, and both", columns, (*rows, perfect), words=(0,)
    )


def reliability_measure(runs: Sequence[tuple[str, RunDocument]]) -> Measure | None:
    """Accuracy over confidence, of all networks of some runs; None if nothing is known."""
    found = [(f"{run}: {name}" if run else name, place, bins) for run, document in runs
             for name, place, bins in _networks(document)]  # fmt: skip
    if not found:
        return None
    several = len(runs) > 1
    series = tuple(
        Series(
            name, number if several else place, tuple(each.confidence for each in bins),
            tuple(each.accuracy for each in bins),
        )
        for number, (name, place, bins) in enumerate(found)
    )  # fmt: skip
    diagonal = Series("as sure as right", DIFFERENT - 1 if not several else len(found), (0.0, 1.0), (0.0, 1.0))
    return Measure("reliability", "Accuracy of answers by their confidence", "", (*series, diagonal), labelled=False)


def _networks(document: RunDocument) -> list[tuple[str, int, Bins]]:
    """Name, look and bins of every network that is shown."""
    if document.barrier is not None:
        return [(name, place, bins) for name, place, bins in _of_line(document.barrier) if bins]
    scores = document.merge.scores if document.merge else {}
    names = input_names(document.inputs)
    found = [(names.get(role, role), score.reliability) for role, score in scores.items()]
    return [(name, place, bins) for place, (name, bins) in enumerate(found) if bins]


def _of_line(barrier: BarrierRecord) -> Iterator[tuple[str, int, Bins]]:
    middle = len(barrier.lam) // 2
    if barrier.naive is not None and barrier.naive.reliability:
        for name, at in (("A", 0), ("B", -1)):
            yield name, _PLACE_OF_END[name], barrier.naive.reliability[at]
    for name, curve in barrier.curves.items():
        if curve.reliability:
            yield f"{name} at {barrier.lam[middle]:g}", PLACE[barrier.kind(name)], curve.reliability[middle]


def _mean(bins: Bins, values: Sequence[float]) -> float:
    """Over all answers, of a value for each bin."""
    return sum(each.count * value for each, value in zip(bins, values, strict=True)) / sum(each.count for each in bins)


def _digits(bins: Bins) -> str:
    """A digit for each of 15 steps of confidence: how many tenths of the answers there are right; "-" if none is."""
    found = [_NONE] * _BINS
    for each in bins:
        if isfinite(each.confidence) and isfinite(each.accuracy):
            found[min(max(ceil(each.confidence * _BINS) - 1, 0), _BINS - 1)] = str(min(int(10 * each.accuracy), 9))
    return "".join(found)
