"""The plane through A, B and π(B) in a terminal: darker is a higher loss."""

from __future__ import annotations

import math

from rich.text import Text

from rebasin_cli.report.document import PlaneRecord
from rebasin_cli.report.figures import loss_text
from rebasin_cli.report.plane_levels import BANDS, Levels

_SHADES = " .:-=+*#%@"
_COLOURS = (
    "#440154",
    "#482878",
    "#3e4989",
    "#31688e",
    "#26828e",
    "#1f9e89",
    "#35b779",
    "#6ece58",
    "#b5de2b",
    "#fde725",
)
"""Of viridis, which keeps its order for colour-blind readers and in grey."""

_ASPECT = 2.1  # height of a character in its widths
_MARKS = {"A": "A", "B": "B", "π(B)": "P"}


def plane_text(plane: PlaneRecord, *, width: int = 78, height: int = 22, unicode: bool = True) -> Text:
    """Draw the loss over the plane within `width` columns and about `height` rows; corners are marked A, B and P.

    Points without a finite loss are `?`. The same characters tell the bands with and without colour.
    """
    levels = Levels.of(plane)
    if levels is None or not plane.x or not plane.y:
        return Text()
    across, up = plane.x[-1] - plane.x[0], plane.y[-1] - plane.y[0]
    columns = min(width, round(height * _ASPECT * across / up))
    rows = max(2, min(height, round(columns * up / across / _ASPECT)))
    columns = max(8, columns)
    marks = {}
    for name, mark in _MARKS.items():
        if point := plane.points.get(name):
            column = round((point.x - plane.x[0]) / across * (columns - 1))
            marks[round((plane.y[-1] - point.y) / up * (rows - 1)), column] = mark
    text = Text()
    for row in range(rows):
        y = plane.y[-1] - up * row / (rows - 1)
        for column in range(columns):
            x = plane.x[0] + across * column / (columns - 1)
            if corner := marks.get((row, column)):
                text.append(corner, "bold reverse")
                continue
            band = levels.band(loss_at(plane, x, y))
            text.append(*(("?", "dim") if band is None else (_SHADES[band], f"on {_COLOURS[band]}")))
        text.append("\n")
    low, high = (levels.edges[0], levels.edges[-1]) if levels.edges else (math.nan, math.nan)
    aligned = "π(B)" if unicode else "B aligned"
    text.append(
        f"A, B, P = {aligned}. Loss: ' ' below {loss_text(low)} to '{_SHADES[BANDS - 1]}' above {loss_text(high)}",
        "dim",
    )
    return text


def loss_at(plane: PlaneRecord, x: float, y: float) -> float:
    """The loss at a point between those of the grid, bilinear; NaN where one of its four neighbours has none."""
    i, u = _place(plane.x, x)
    j, v = _place(plane.y, y)
    low = (1 - u) * plane.loss[j][i] + u * plane.loss[j][i + 1]
    high = (1 - u) * plane.loss[j + 1][i] + u * plane.loss[j + 1][i + 1]
    return (1 - v) * low + v * high


def _place(axis: tuple[float, ...], value: float) -> tuple[int, float]:
    """The interval of an even axis that a value is in, and how far in it, 0 to 1."""
    step = (axis[-1] - axis[0]) / (len(axis) - 1)
    at = min(max((value - axis[0]) / step, 0.0), len(axis) - 1.0)
    index = min(int(at), len(axis) - 2)
    return index, at - index
