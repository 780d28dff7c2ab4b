"""Where the marks of a chart lie: curves, ticks, ends, arrows and labels. A template draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rebasin_cli.report.figures import finite_range, tick_text, ticks
from rebasin_cli.report.looks import Marker, look
from rebasin_cli.report.series import SMALLEST_ARROW, Measure, Series, spots
from rebasin_cli.safe_text import LONGEST_NAME, one_line

WIDTH, HEIGHT = 480, 312
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 20, 42
_MARKS = 60  # points of a curve that are marked; of more the line alone is drawn
_R = 3.4


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a curve, with what it says to whoever rests on it."""

    x: float
    y: float
    d: Markup
    text: str
    end: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: path data, its points, and its arrow with both ends (x, top, foot)."""

    place: int
    path: Markup
    points: tuple[Point, ...]
    arrow: tuple[float, float, float] | None
    chord: Markup | None


@dataclass(frozen=True, slots=True)
class Label:
    """A text with its place and the look of its curve."""

    place: int
    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A whole chart; `description` says in words what it shows."""

    name: str
    title: str
    description: str
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    axis: str
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]
    width: int = WIDTH
    height: int = HEIGHT


def _at_lambda(lam: float) -> str:
    return f"λ = {lam:.4g}"


def chart(
    measure: Measure, *, log: bool = False, axis: str = "A  ←  λ, the weight on B  →  B",
    place: Callable[[float], str] = _at_lambda,
) -> Chart | None:  # fmt: skip
    """The chart of a measure over λ, or over what else goes from 0 to 1; None if no value is finite.

    Args:
        axis: what stands below it; place: what says where a point is.
    """
    span = finite_range([one.values for one in measure.series])
    if span is None or (log and span[0] <= 0):
        return None
    scale = _Scale.of(span, log)
    lines = tuple(_line(one, measure, scale, place) for one in measure.series)
    return Chart(
        measure.name + ("-log" if log else ""),
        measure.title + (", logarithmic" if log else ""),
        _described(measure),
        tuple((_x(at), text) for at, text in ((0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1, "1"))),
        tuple((scale.y(value), text) for value, text in scale.ticks()),
        axis,
        lines,
        tuple(_labels(measure, scale)),
    )


def trace(title: str, values: Sequence[float], unit: str) -> Chart | None:
    """A small chart of a value per step, such as the objective after every sweep; None of fewer than two."""
    span = finite_range([values])
    if span is None or len(values) < 2:
        return None
    scale = _Scale.of(span, log=False)
    at = tuple(k / (len(values) - 1) for k in range(len(values)))
    one = Series(title, 1, at, tuple(values))
    step = max(1, math.ceil((len(values) - 1) / 6))
    shown = [(_x(at[k]), str(k)) for k in range(0, len(values), step)]
    line = _line(one, Measure("step", title, "", (one,)), scale, lambda lam: f"step {round(lam * (len(values) - 1))}")
    words = f"From {values[0]:.4g} to {values[-1]:.4g} in {len(values) - 1} steps."
    up = tuple((scale.y(value), text) for value, text in scale.ticks())
    return Chart("objective", title, words, tuple(shown), up, unit, (line,), ())


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to places, linear or logarithmic."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, span: tuple[float, float], log: bool) -> _Scale:
        low, high = map(math.log10, span) if log else span
        margin = (high - low) * 0.1  # for labels
        return cls(low - margin, high + margin, log)

    def y(self, value: float) -> float:
        at = math.log10(max(value, 10**self.low)) if self.log else value  # below: the foot of an arrow, rounded to 0
        return round(HEIGHT - BOTTOM - (at - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM), 2)

    def ticks(self) -> list[tuple[float, str]]:
        if not self.log:
            marks = ticks(self.low, self.high, 5)
            step = marks[1] - marks[0] if len(marks) > 1 else self.high - self.low
            return [(mark, tick_text(mark, step)) for mark in marks]
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        wide = self.high - self.low > 2.5
        marks = tuple(m * 10.0**power for power in decades for m in ((1,) if wide else (1, 2, 5)))
        within = [mark for mark in marks if self.low <= math.log10(mark) <= self.high]
        step = max(1, math.ceil(len(within) / 7))
        return [(mark, f"{mark:g}") for mark in within[::step]]


def _x(lam: float) -> float:
    return round(LEFT + lam * (WIDTH - LEFT - RIGHT), 2)


def _line(one: Series, measure: Measure, scale: _Scale, place: Callable[[float], str]) -> Line:
    name = one_line(one.name, LONGEST_NAME)
    drawn = [
        (_x(lam), scale.y(value)) if math.isfinite(value) else None
        for lam, value in zip(one.lam, one.values, strict=True)
    ]
    last = len(one.lam) - 1
    points = tuple(
        Point(
            *at, _shape(look(one.place).marker, *at, _R * (1.5 if k in (0, last) else 1)),
            f"{name}, {place(lam)}: {value:.4g} {measure.unit}".rstrip(), k in (0, last),
        )
        for k, (at, lam, value) in enumerate(zip(drawn, one.lam, one.values, strict=True))
        if at is not None and (len(one.lam) <= _MARKS or k in (0, last))
    )  # fmt: skip
    peak, arrow, chord = one.summit, None, None
    if peak is not None and scale.y(peak.foot) - scale.y(peak.top) > SMALLEST_ARROW * (HEIGHT - TOP - BOTTOM):
        arrow = (_x(peak.lam), scale.y(peak.top), scale.y(peak.foot))
        chord = _chord(one, scale)
    return Line(one.place, _path(drawn), points, arrow, chord)


def _chord(one: Series, scale: _Scale) -> Markup:
    """The straight line between the ends, which is bent on a logarithmic axis."""
    first, last, steps = one.values[0], one.values[-1], 24 if scale.log else 1
    along = [k / steps for k in range(steps + 1)]
    return _path([(_x(at), scale.y((1 - at) * first + at * last)) for at in along])


def _labels(measure: Measure, scale: _Scale) -> Iterator[Label]:
    """Names beside the curves."""
    for spot in spots(measure, lambda value: -scale.y(value), -(TOP - 6.0)):
        y = scale.y(spot.value) - spot.shift
        anchor = "start" if spot.lam < 0.12 else "end" if spot.lam > 0.88 else "middle"
        yield Label(spot.series.place, _x(spot.lam), round(min(y, HEIGHT - BOTTOM - 4), 2), anchor, spot.text)


def _described(measure: Measure) -> str:
    """What the chart shows, for whoever does not see it."""
    said = []
    for one in measure.series:
        finite = [value for value in one.values if math.isfinite(value)]
        if finite:
            barrier = f", barrier {one.text}" if one.text else ""
            low, high = min(finite), max(finite)
            said.append(f"{one_line(one.name, LONGEST_NAME)}: {low:.4g} to {high:.4g}{barrier}")
    return "; ".join(said) + "."


def _path(points: Sequence[tuple[float, float] | None]) -> Markup:
    """SVG path data with a new subpath after each gap."""
    words, pen_down = [], False
    for point in points:
        if point is not None:
            words.append(f"{'L' if pen_down else 'M'}{point[0]:g} {point[1]:g}")
        pen_down = point is not None
    return Markup(" ".join(words))  # numbers alone


def _shape(marker: Marker, x: float, y: float, r: float) -> Markup:
    """Path data of a marker around a point."""
    s, t = round(r * 0.9, 2), round(r * 1.25, 2)
    shapes = {
        "circle": f"M{x - r:.4g} {y:.5g}a{r:g} {r:g} 0 1 0 {2 * r:g} 0a{r:g} {r:g} 0 1 0 {-2 * r:g} 0z",
        "square": f"M{x - s:.5g} {y - s:.5g}h{2 * s:g}v{2 * s:g}h{-2 * s:g}z",
        "triangle": f"M{x:.5g} {y - t:.5g}l{t:g} {2 * s:g}h{-2 * t:g}z",
        "diamond": f"M{x:.5g} {y - t:.5g}l{t:g} {t:g}l{-t:g} {t:g}l{-t:g} {-t:g}z",
        "cross": f"M{x - s:.5g} {y - s:.5g}l{2 * s:g} {2 * s:g}m0 {-2 * s:g}l{-2 * s:g} {2 * s:g}",
    }
    return Markup(shapes[marker])  # numbers alone


def marker_shape(place: int) -> Markup:
    """The marker of a legend, in a box of 34 × 12."""
    return _shape(look(place).marker, 17, 6, _R + 0.6)
