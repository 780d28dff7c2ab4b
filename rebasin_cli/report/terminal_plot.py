"""The loss along λ in a terminal: braille dots, or plain characters where the terminal is not UTF-8.

Aligned is a solid line, naive a dotted one and repaired ones are sparser still, so that they differ without colour too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.text import Text

from rebasin_cli.report.document import BarrierRecord, Kind
from rebasin_cli.report.figures import finite_range, loss_text, tick_text, ticks
from rebasin_cli.safe_text import LONGEST_NAME, one_line

_LOOKS: Mapping[Kind, tuple[str, str, int]] = {
    "naive": ("red", "o", 2),
    "aligned": ("green", "*", 1),
    "bn": ("blue", "+", 3),
    "repair": ("magenta", "x", 5),
}
"""Colour, mark of the ASCII plot and gap between dots of each curve."""
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # braille bits by row and column of a cell


@dataclass(frozen=True, slots=True)
class _Series:
    name: str
    values: tuple[float, ...]
    barrier: float
    style: str
    mark: str  # of the ASCII plot
    gap: int  # steps of the pen between two dots: 1 is a solid line


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
        self.marks[row][column] = series.mark
        self.styles[row][column] = series.style

    def cell(self, row: int, column: int) -> tuple[str, str]:
        """Character and style."""
        dots = self.dots[row][column]
        if not dots:
            return " ", ""
        return (chr(0x2800 + dots) if self.unicode else self.marks[row][column]), self.styles[row][column]


def loss_plot(barrier: BarrierRecord, *, width: int = 78, height: int = 14, unicode: bool = True) -> Text:
    """Draw loss over λ, naive and aligned, within `width` columns.

    Points that are not finite are left out. Returns an empty text if there is nothing to draw.
    """
    series = [
        _Series(_name(name, unicode), curve.loss, curve.barrier, *_LOOKS[barrier.kind(name)])
        for name, curve in barrier.curves.items()
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
    return _assembled(canvas, labels, margin, series)


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


def _assembled(canvas: _Canvas, labels: dict[int, str], margin: int, series: Sequence[_Series]) -> Text:
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
    text.append(" " * (margin + 2))
    for one in series:
        sample = ("⠒⠒⠒" if one.gap == 1 else "⠂⠐ ⠂") if canvas.unicode else one.mark * 3
        text.append(f"{sample} {one.name}", one.style)
        text.append(f", barrier {loss_text(one.barrier)}    ")
    text.rstrip()
    return text
