"""What a chart shows, whichever program draws it: curves over λ, and the barrier of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, pairwise

from rebasin_cli.report.figures import loss_text
from rebasin_cli.report.looks import PLACE
from rebasin_cli.report.measurements import BarrierRecord, CurveRecord
from rebasin_cli.safe_text import one_line

SMALLEST_ARROW = 0.04
"""Of the height of a chart: a shorter arrow would be all head."""

_LABELLED = 5  # curves; more labels would lie over one another, and the legend has them all
_ABOVE, _BELOW, _LINE = 9.0, 18.0, 15.0  # from a point to its label, and from one label to the next
_SMALLEST = 1e-12  # loss on a logarithmic axis: what is nearer to 0 is rounding


@dataclass(frozen=True, slots=True)
class Summit:
    """Where a curve is highest above the line between its ends.

    Attributes:
        lam: the place; top: the value there; foot: of the line between the ends.
    """

    lam: float
    top: float
    foot: float


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    Attributes:
        name: in the legend; place: the number of its look.
        text: its barrier; summit: None of a measure without a barrier, or where a value is not finite.
    """

    name: str
    place: int
    lam: tuple[float, ...]
    values: tuple[float, ...]
    text: str = ""
    summit: Summit | None = None

    @property
    def label(self) -> str:
        """Name and barrier."""
        return f"{self.name}, barrier {self.text}" if self.text else self.name


@dataclass(frozen=True, slots=True)
class Measure:
    """One chart: what was measured, in which unit, of every curve."""

    name: str
    title: str
    unit: str
    series: tuple[Series, ...]
    labelled: bool = True  # names stand beside the curves, too

    @property
    def values(self) -> list[float]:
        """Every finite value."""
        return [value for one in self.series for value in one.values if math.isfinite(value)]

    @property
    def takes_log(self) -> bool:
        """Whether a logarithmic axis can show it, and shows more: all values above 0, some three times others."""
        return bool(self.values) and min(self.values) > _SMALLEST and max(self.values) >= 3 * min(self.values)


def measures(runs: Sequence[tuple[str, BarrierRecord]]) -> list[Measure]:
    """Loss, accuracy and whatever else was measured, of one run or of several over one another.

    `runs` are names, empty for a single run, and what was measured. Curves that are the same in several runs, as
    the naive one of two methods is, are drawn once.
    """
    chosen = list(_chosen(runs))
    units = dict.fromkeys(barrier.loss_unit for _, barrier in runs)
    unit = " or ".join(units)
    others = dict.fromkeys(metric for _, _, _, curve in chosen for metric in curve.metrics)
    found = [_measure("loss", f"Loss ({unit})", unit, chosen, lambda curve: curve.loss)]
    if any(barrier.has_accuracy for _, barrier in runs):
        found.append(_measure("accuracy", "Accuracy (fraction right)", "", chosen, lambda curve: curve.accuracy))
    for other in others:
        found.append(_measure(other, other, "", chosen, partial(_metric, other)))
    labelled = {"loss"} if len(runs) > 1 else {measure.name for measure in found}
    return [replace(measure, labelled=measure.name in labelled) for measure in found if measure.series]


def _metric(name: str, curve: CurveRecord) -> tuple[float, ...]:
    return curve.metrics.get(name, ())


Chosen = tuple[str, int, tuple[float, ...], CurveRecord]


def _chosen(runs: Sequence[tuple[str, BarrierRecord]]) -> Iterator[Chosen]:
    """Names, looks and records of the curves."""
    one_naive = _have_one_naive(runs)
    free = count(1)
    for number, (run, barrier) in enumerate(runs):
        for name, curve in barrier.curves.items():
            if len(runs) == 1:
                yield name, PLACE[barrier.kind(name)], barrier.lam, curve
            elif name != "naive" or not one_naive:
                yield f"{run}: {name}", next(free), barrier.lam, curve
            elif number == 0:
                yield name, 0, barrier.lam, curve


def _have_one_naive(runs: Sequence[tuple[str, BarrierRecord]]) -> bool:
    """Whether the naive curve is the same in all runs, as it is where they differ in their method alone."""
    first = runs[0][1] if runs else None
    return first is not None and all(
        barrier.naive is not None and first.naive is not None
        and (barrier.lam, barrier.naive.loss) == (first.lam, first.naive.loss)
        for _, barrier in runs
    )  # fmt: skip


def _measure(
    name: str, title: str, unit: str, chosen: Sequence[Chosen], values: Callable[[CurveRecord], tuple[float, ...]]
) -> Measure:
    series = tuple(
        Series(
            shown, place, lam, values(curve), loss_text(curve.barrier) if name == "loss" else "",
            summit(lam, values(curve)) if name == "loss" else None,
        )
        for shown, place, lam, curve in chosen
        if values(curve)
    )  # fmt: skip
    return Measure(name, title, unit, series)


def summit(lam: Sequence[float], values: Sequence[float]) -> Summit | None:
    """Where the values are highest above the line between the ends; None if they are nowhere, or not all finite."""
    if len(lam) < 3 or not all(map(math.isfinite, values)):
        return None
    first, last = values[0], values[-1]
    heights = [value - ((1 - at) * first + at * last) for at, value in zip(lam, values, strict=True)]
    at = heights.index(max(heights))
    return Summit(lam[at], values[at], values[at] - heights[at]) if heights[at] > 0 else None


@dataclass(frozen=True, slots=True)
class Spot:
    """Where the name of a curve stands: at a point of it, and how many units of the chart it is shifted upwards."""

    series: Series
    lam: float
    value: float
    shift: float
    text: str


def spots(measure: Measure, height: Callable[[float], float], ceiling: float) -> Iterator[Spot]:
    """Of the lowest curve the name below it, of the others above them, none over another; of many curves none.

    `height` is that of a value in the units of the chart, `ceiling` the largest height of a label.
    """
    shown = [one for one in measure.series if any(map(math.isfinite, one.values))]
    if not measure.labelled or len(shown) > _LABELLED:
        return
    places = {one: _anchor(one, shown) for one in shown}
    for one in sorted(shown, key=lambda one: -places[one][1]):
        lam, value = places[one]
        others = [other for other in shown if other is not one]
        if others and all(value < _value_at(other, lam) for other in others):
            shift = -_BELOW
        else:
            shift = min(height(value) + _ABOVE, ceiling) - height(value)
            ceiling = height(value) + shift - _LINE
        name = one_line(one.name, 28)
        yield Spot(one, lam, value, shift, f"{name}: {one.text}" if one.summit else name)


def _anchor(one: Series, shown: Sequence[Series]) -> tuple[float, float]:
    """(λ, value) of the point that a label stands at: the summit, or where the curve is furthest from all others."""
    if one.summit:
        return one.summit.lam, one.summit.top
    others = [other for other in shown if other is not one]
    finite = [(lam, value) for lam, value in zip(one.lam, one.values, strict=True) if math.isfinite(value)]
    apart = [min((abs(value - _value_at(other, lam)) for other in others), default=0.0) for lam, value in finite]
    largest = max(apart)
    return finite[apart.index(largest) if largest > 0 else len(finite) // 2]


def _value_at(one: Series, lam: float) -> float:
    """The value of a curve between its points; of one that is not measured there, that of the nearest point."""
    finite = [(at, value) for at, value in zip(one.lam, one.values, strict=True) if math.isfinite(value)]
    for (x0, y0), (x1, y1) in pairwise(finite):
        if x0 <= lam <= x1:
            return y0 + (y1 - y0) * (lam - x0) / (x1 - x0)
    return min(finite, key=lambda point: abs(point[0] - lam))[1]
