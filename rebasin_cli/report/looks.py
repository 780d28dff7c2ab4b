"""How curves look in pages and pictures: colour, dash and marker, so that they differ without colour, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rebasin_cli.report.measurements import Kind

Marker = Literal["circle", "square", "triangle", "diamond", "cross"]


@dataclass(frozen=True, slots=True)
class Look:
    """How one curve is drawn.

    Attributes:
        light, dark: its colour on a light and on a dark page; both have a contrast of 4.5 to 1 or more.
        dash: lengths of strokes and gaps in units of a page; empty for a solid line.
    """

    light: str
    dark: str
    dash: tuple[int, ...]
    marker: Marker


_COLOURS = (
    ("#b83246", "#f4828f"), ("#16734f", "#57c798"), ("#2166a8", "#78b1ea"), ("#7a4bad", "#c09bea"),
    ("#9a5b00", "#e3a54a"), ("#0b7285", "#58c4d6"), ("#a8327e", "#ee8ac9"), ("#56606b", "#b3bcc6"),
)  # fmt: skip
_DASHES: tuple[tuple[int, ...], ...] = ((6, 4), (), (2, 3), (10, 3, 2, 3), (14, 4))
_MARKERS: tuple[Marker, ...] = ("circle", "square", "triangle", "diamond", "cross")
DIFFERENT = len(_COLOURS)
"""Number of colours; from there on a curve shares its colour with another, in another dash and marker."""

PLACE: Mapping[Kind, int] = {"naive": 0, "aligned": 1, "bn": 2, "repair": 3, "ensemble": 4}
"""The look of each kind of curve, where one run is shown."""


def look(number: int) -> Look:
    """The look of one of many curves; the first 40 are all different."""
    light, dark = _COLOURS[number % len(_COLOURS)]
    return Look(light, dark, _DASHES[number % len(_DASHES)], _MARKERS[number % len(_MARKERS)])
