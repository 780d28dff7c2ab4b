"""The loss along λ in a terminal: braille dots, or plain characters where the terminal is not UTF-8.

Aligned is a solid line; the others are dotted and carry marks of their own, so that they differ without colour too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.cells import cell_len
from rich.text import Text

from rebasin_cli.report.figures import finite_range, tick_text, ticks
from rebasin_cli.report.measurements import BarrierRecord, Kind
from rebasin_cli.safe_text import LONGEST_NAME, one_line

_LOOKS: Mapping[Kind, tuple[str, str, int]] = {
    "naive": ("red", "o", 2),
    "aligned": ("green", "*", 1),
    "bn": ("blue", "+", 3),
    "repair": ("magenta", "x", 5),
    "ensemble": ("yellow", "#", 4),
}
"""Colour, mark and gap between dots of each curve."""
_BETWEEN_MARKS = 8  # columns, of a dotted curve of braille
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # braille bits by row and column of a cell


@dataclass(frozen=True, slots=True)
class _Series:
    name: str
    values: tuple[float, ...]
    style: str
    mark: str  # all of a curve in ASCII, a sign now and then on one of braille that is dotted
    gap: int  # steps of the pen between two dots: 1 is a solid line

    @property
    def dotted(self) -> bool:
        """Whether it needs marks to be told apart."""
        return self.gap > 1

    def sample(self, unicode: bool) -> str:
        """A piece of it, for the legend."""
        return (f"⠂⠐{self.mark}⠂⠐" if self.dotted else "⠒⠒⠒⠒⠒") if unicode else self.mark * 3


class _Canvas:
    """Cells of `across` × `down` dots; a later series is drawn over an earlier one."""

    def __init__(self, width: int, height: int, unicode: bool) -> None:
        self.width, self.height, self.unicode = width, height, unicode
        self.across, self.down = (2, 4) if unicode else (1, 1)
        self.dots = [[0] * width for _ in range(height)]
        self.marks = [[" "] * width for _ in range(height)]
        self.styles = [[""] * width for _ in range(height)]

    def dot(self, x: int, y: int, series: _Series) -> None:
        """Set the dot `x` from the left and `y` from the bottom."""
        y = self.height * self.down - 1 - y
        column, row = x // self.across, y // self.down
        self.dots[row][column] |= _DOTS[y % 4][x % 2] if self.unicode else 1
        self.styles[row][column] = series.style
        marked = not self.unicode or (series.dotted and column % _BETWEEN_MARKS == _BETWEEN_MARKS // 2)
        self.marks[row][column] = series.mark if marked else ""

    def cell(self, row: int, column: int) -> tuple[str, str]:
        """Character and style."""
        dots = self.dots[row][column]
        if not dots:
            return " ", ""
        return self.marks[row][column] or chr(0x2800 + dots), self.styles[row][column]


def loss_plot(barrier: BarrierRecord, *, width: int = 78, height: int = 10, unicode: bool = True) -> Text:
    """Draw loss over λ, naive and aligned, within `width` columns.

    Points that are not finite are left out. Returns an empty text if there is nothing to draw.
    """
    series = [
        _Series(_name(name, unicode), curve.loss, *_LOOKS[barrier.kind(name)]) for name, curve in barrier.curves.items()
    ]
    span = finite_range([s.values for s in series])
    if span is None or len(barrier.lam) < 2:
        return Text()
    rows = ticks(*span, 4)
    step = rows[1] - rows[0] if len(rows) > 1 else span[1] - span[0]
    labels = {_row(value, span, height): tick_text(value, step) for value in rows}
    margin = max(*map(len, labels.values()), len("λ" if unicode else "lambda")) + 1
    canvas = _Canvas(max(10, width - margin - 2), height, unicode)
    for one in series:
        for x, y in _pen(barrier.lam, one, span, canvas):
            canvas.dot(x, y, one)
    return _assembled(canvas, labels, margin).append(_legend(series, margin, width, unicode))


def _name(text: str, unicode: bool) -> str:
    text = one_line(text, LONGEST_NAME)
    return text if unicode else text.encode("ascii", "backslashreplace").decode("ascii")


def _row(value: float, span: tuple[float, float], height: int) -> int:
    return height - 1 - min(height - 1, int((value - span[0]) / (span[1] - span[0]) * height))


def _pen(
    lam: Sequence[float], series: _Series, span: tuple[float, float], canvas: _Canvas
) -> Iterator[tuple[int, int]]:
    """Every dot of one curve: straight lines between neighbouring finite points."""
    wide, high = canvas.width * canvas.across - 1, canvas.height * canvas.down - 1
    points = [
        (x * wide, (y - span[0]) / (span[1] - span[0]) * high)
        for x, y in zip(lam, series.values, strict=True)
        if math.isfinite(y)
    ]
    travelled = 0
    for (x0, y0), (x1, y1) in pairwise(points):
        steps = max(1, math.ceil(max(abs(x1 - x0), abs(y1 - y0))))
        for k in range(steps + 1):
            if travelled % series.gap == 0:
                yield round(x0 + (x1 - x0) * k / steps), round(y0 + (y1 - y0) * k / steps)
            travelled += k < steps
    if len(points) == 1:
        yield round(points[0][0]), round(points[0][1])


def _legend(series: Sequence[_Series], margin: int, width: int, unicode: bool) -> Text:
    """Every curve's name, on as many lines as they need."""
    text = Text(" " * (margin + 2))
    column = margin + 2
    for at, one in enumerate(series):
        entry = f"{one.sample(unicode)} {one.name}"
        if at and column + 3 + cell_len(entry) > width:
            text.append("\n" + " " * (margin + 2))
            column = margin + 2
        elif at:
            text.append("   ")
            column += 3
        text.append(entry, one.style)
        column += cell_len(entry)
    return text


def _assembled(canvas: _Canvas, labels: dict[int, str], margin: int) -> Text:
    side, corner, floor, tick = ("│", "└", "─", "┬") if canvas.unicode else ("|", "+", "-", "+")
    text = Text()
    for row in range(canvas.height):
        text.append(f"{labels.get(row, ''):>{margin}} ", "dim")
        text.append(("┤" if canvas.unicode else "+") if row in labels else side, "dim")
        for column in range(canvas.width):
            text.append(*canvas.cell(row, column))
        text.append("\n")
    quarters = {round(q * (canvas.width - 1)): q for q in (0, 0.25, 0.5, 0.75, 1)}
    axis = "".join(tick if column in quarters else floor for column in range(canvas.width))
    text.append(f"{'':>{margin}} {corner}{axis}\n", "dim")
    numbers = [" "] * (canvas.width + 4)
    for column, q in quarters.items():
        label = f"{q:g}"
        start = min(column - len(label) // 2, canvas.width - len(label)) if column else 0
        numbers[start : start + len(label)] = label
    lam = "λ" if canvas.unicode else "lambda"
    text.append(f"{lam:>{margin}}  {''.join(numbers).rstrip()}\n", "dim")
    return text
