"""The curves along λ as a picture (PNG, SVG or PDF) through matplotlib (the extra `plot`), as the page draws them."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rebasin_cli.errors import UsageError
from rebasin_cli.report.figures import finite_range
from rebasin_cli.report.looks import Marker, look
from rebasin_cli.report.measurements import BarrierRecord
from rebasin_cli.report.series import SMALLEST_ARROW, Measure, Series, measures, spots
from rebasin_cli.report.thinning import thinned_barrier
from rebasin_cli.safe_text import LONGEST_NAME, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Form = Literal["png", "svg", "pdf"]
FORMS: tuple[Form, ...] = ("png", "svg", "pdf")
_MARKERS: dict[Marker, str] = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "cross": "x"}
_MADE_AT: dict[Form, dict[str, str | None]] = {
    "png": {"Software": "rebasin"}, "svg": {"Creator": "rebasin", "Date": None},
    "pdf": {"Creator": "rebasin", "CreationDate": None},
}  # fmt: skip  # no times: the same curves give the same bytes
_POINTS = 200.0  # height of a chart in points, about
_MARGIN = 0.1  # above and below the curves, for labels


def form_of(path: Path) -> Form:
    """The form that a file's name asks for.

    Raises:
        UsageError: another suffix, or none.
    """
    suffix = path.suffix.lower().removeprefix(".")
    for form in FORMS:
        if suffix == form:
            return form
    raise UsageError(
        f"{path}: a plot is a .png, .svg or .pdf file", remedy=f"name it {path.stem or 'barrier'}.png, .svg or .pdf"
    )


def require_matplotlib() -> None:
    """Refuse at once, before any work, if the extra is not installed.

    Raises:
        UsageError: with the command that installs it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "a plot needs matplotlib, which is not installed",
            remedy="pip install 'rebasin-cli[plot]'; or take --html of `rebasin report`, which needs nothing",
        )


def to_picture(runs: Sequence[tuple[str, BarrierRecord]], form: Form) -> bytes:
    """The picture of runs over one another, as the bytes of a file; `runs` are names and what was measured."""
    return saved(_figure(measures([(name, thinned_barrier(barrier)) for name, barrier in runs])), form)


def saved(figure: Figure, form: Form) -> bytes:
    """A figure as the bytes of a file; the same figure gives the same bytes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "rebasin", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=form, metadata=_MADE_AT[form])
    return buffer.getvalue()


def figure_of(barrier: BarrierRecord) -> Figure:
    """Loss with the barriers marked, accuracy and whatever else was measured, as a figure of matplotlib."""
    return _figure(measures([("", thinned_barrier(barrier))]))


def _figure(shown: Sequence[Measure]) -> Figure:
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class LossFigure(Figure):
        """A figure that a notebook shows by itself: matplotlib's own are shown once pyplot was imported."""

        def _repr_png_(self) -> bytes:
            return saved(self, "png")

    columns = 1 if len(shown) == 1 else 2
    rows = max(1, math.ceil(len(shown) / columns))
    figure = LossFigure(figsize=(5.6 * columns, 0.5 + 3.7 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(rows, columns, squeeze=False).flat
    for axes, measure in zip(every, shown, strict=False):
        _draw(axes, measure)
    for axes in list(every)[len(shown) :]:
        axes.set_axis_off()
    if shown:
        lines, names = figure.axes[0].get_legend_handles_labels()
        legend = figure.legend(lines, names, loc="outside upper center", ncols=min(3, len(lines)), frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _draw(axes: Any, measure: Measure) -> None:
    for one in measure.series:
        _curve(axes, one)
    span = finite_range([one.values for one in measure.series]) or (0.0, 1.0)
    margin = _MARGIN * (span[1] - span[0])
    low, high = span[0] - margin, span[1] + margin
    axes.set(xlim=(-0.02, 1.02), ylim=(low, high), xlabel="A  ←  λ, the weight on B  →  B")
    axes.set_title(one_line(measure.title, LONGEST_NAME), loc="left", fontsize=10, fontweight="bold", parse_math=False)
    axes.grid(axis="y", color="#dbe1e7", linewidth=0.8)
    axes.tick_params(colors="#5b6773", labelsize=9)
    axes.xaxis.label.set_color("#5b6773")
    axes.spines[["top", "right", "left"]].set_visible(False)
    for one in measure.series:
        if one.summit and one.summit.top - one.summit.foot > SMALLEST_ARROW * (high - low):
            _arrow(axes, one)
    for spot in spots(measure, lambda value: (value - low) / (high - low) * _POINTS, _POINTS):
        text = axes.annotate(
            spot.text, (spot.lam, spot.value), (0, spot.shift * (1.0 if spot.shift > 0 else 0.9)),
            textcoords="offset points", va="bottom" if spot.shift > 0 else "baseline",
            color=look(spot.series.place).light,
            ha="left" if spot.lam < 0.12 else "right" if spot.lam > 0.88 else "center", fontsize=9, fontweight="bold",
            parse_math=False, zorder=6,
        )  # fmt: skip
        _haloed(text)


def _curve(axes: Any, one: Series) -> None:
    """A line with its markers; those at the ends are larger and hollow."""
    style = look(one.place)
    dash = (0, tuple(length / 1.6 for length in style.dash)) if style.dash else "-"
    name = one_line(one.label, LONGEST_NAME)
    marker, colour = _MARKERS[style.marker], style.light
    axes.plot(one.lam, one.values, color=colour, linestyle=dash, marker=marker, markersize=4, linewidth=1.6, label=name)
    ends = ((one.lam[0], one.lam[-1]), (one.values[0], one.values[-1])) if one.lam else ((), ())
    axes.plot(*ends, linestyle="", marker=marker, markersize=6.5, color=colour, markerfacecolor="white", zorder=4)


def _arrow(axes: Any, one: Series) -> None:
    """From the line between the ends up to the loss, where it is highest above it."""
    summit, colour = one.summit, look(one.place).light
    assert summit is not None
    axes.plot((0, 1), (one.values[0], one.values[-1]), color=colour, linewidth=0.9, linestyle=":", alpha=0.8)
    arrow = {"arrowstyle": "<->", "color": colour, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (summit.lam, summit.top), (summit.lam, summit.foot), arrowprops=arrow)


def _haloed(text: Any) -> None:
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=3, foreground="white")])
