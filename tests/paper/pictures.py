"""Small charts as SVG, through matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def lines(series: Series, across: str, up: str, *, logarithmic: str = "") -> str:
    """Curves by name, each of x and y; `logarithmic`: "x", "y" or both."""
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, (x, y)), dash, mark in zip(series.items(), ("-", "--", "-.", ":") * 3, "os^Dvx<>*P+d", strict=False):
        axes.plot(x, y, linestyle=dash, marker=mark, markersize=4, label=name)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if "x" in logarithmic:
        axes.set_xscale("log")
    if "y" in logarithmic:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return svg_of(figure)


def svg_of(figure: Figure) -> str:
    """A figure as an `<svg>` element without a date, so that the same figures give the same text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "rebasin"})
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)
