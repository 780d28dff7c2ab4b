"""The plane through A, B and π(B) in a terminal: darker is a higher loss."""

from __future__ import annotations

import math

from rich.text import Text

from rebasin_cli.report.figures import loss_text
from rebasin_cli.report.measurements import PlaneRecord
from rebasin_cli.report.plane_levels import BANDS, COLOURS, Levels, loss_at

_SHADES = " .:-=+*#%@"
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
            text.append(*(("?", "dim") if band is None else (_SHADES[band], f"on {COLOURS[band]}")))
        text.append("\n")
    low, high = (levels.edges[0], levels.edges[-1]) if levels.edges else (math.nan, math.nan)
    aligned = "π(B)" if unicode else "B aligned"
    text.append(
        f"A, B, P = {aligned}. Loss: ' ' below {loss_text(low)} to '{_SHADES[BANDS - 1]}' above {loss_text(high)}",
        "dim",
    )
    return text
