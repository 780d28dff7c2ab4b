"""The loss along λ as a PNG, through matplotlib (the extra `plot`)."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rebasin_cli.errors import UsageError
from rebasin_cli.report.document import BarrierRecord, CurveRecord, Kind
from rebasin_cli.report.figures import loss_text
from rebasin_cli.safe_text import LONGEST_NAME, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS: Mapping[Kind, str] = {"naive": "#d1495b", "aligned": "#1a7f5a", "bn": "#2a6fb5", "repair": "#8a5cb8"}


def require_matplotlib() -> None:
    """Refuse at once, before any work, if the extra is not installed.

    Raises:
        UsageError: with the command that installs it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "a PNG needs matplotlib, which is not installed",
            remedy="pip install 'rebasin-cli[plot]'; or take --html of `rebasin report`, which needs nothing",
        )


def to_png(barrier: BarrierRecord) -> bytes:
    """The figure as the bytes of a file."""
    buffer = io.BytesIO()
    figure_of(barrier).savefig(buffer, format="png", metadata={"Software": "rebasin"})
    return buffer.getvalue()


def figure_of(barrier: BarrierRecord) -> Figure:
    """The loss with both barriers marked, and beside it accuracy, if there is any; it belongs to no window.

    Raises:
        UsageError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(1, 2 if barrier.has_accuracy else 1, squeeze=False)[0]
    loss, accuracy = every[0], every[1] if barrier.has_accuracy else None
    for name, curve in barrier.curves.items():
        shown = one_line(name, LONGEST_NAME)
        colour = _COLOURS[barrier.kind(name)]
        style: dict[str, Any] = {"color": colour, "linestyle": "--" if name == "naive" else "-"}
        label = f"{shown}, barrier {loss_text(curve.barrier)}"
        loss.plot(barrier.lam, curve.loss, marker="o", markersize=3, label=label, **style)
        if accuracy is not None:
            accuracy.plot(barrier.lam, curve.accuracy, marker="o", markersize=3, label=shown, **style)
        _mark_barrier(loss, barrier.lam, curve, colour)
    loss.set_ylabel(f"loss, {one_line(barrier.loss_unit, LONGEST_NAME)}", parse_math=False)
    if accuracy is not None:
        accuracy.set_ylabel("accuracy")
    for axes in every:
        axes.set_xlabel("λ, the weight on B")
        axes.set_xlim(-0.02, 1.02)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(
        *loss.get_legend_handles_labels(), loc="outside upper center", ncols=len(barrier.curves), frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _mark_barrier(axes: Any, lam: tuple[float, ...], curve: CurveRecord, colour: str) -> None:
    """An arrow from the line between the ends up to the loss, where it is highest above it."""
    first, last = curve.loss[0], curve.loss[-1]
    heights = [v - ((1 - x) * first + x * last) for x, v in zip(lam, curve.loss, strict=True)]
    if not all(map(math.isfinite, heights)):
        return
    axes.plot((0, 1), (first, last), color=colour, linewidth=0.8, linestyle=":", alpha=0.8)
    at = heights.index(max(heights))
    low, high = axes.get_ylim()
    if heights[at] > 0.03 * (high - low):  # a shorter arrow would be all head
        foot = curve.loss[at] - heights[at]
        arrow = {"arrowstyle": "<->", "color": colour, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (lam[at], curve.loss[at]), (lam[at], foot), arrowprops=arrow)
