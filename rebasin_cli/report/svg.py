"""Loss or accuracy along λ as inline SVG, coloured by the CSS classes of the page around it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from rebasin_cli.report.document import Kind
from rebasin_cli.report.figures import finite_range, tick_text, ticks
from rebasin_cli.safe_text import block

WIDTH, HEIGHT = 560, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 14, 40


def curve_svg(title: str, lam: Sequence[float], curves: Mapping[str, tuple[Kind, Sequence[float]]], unit: str) -> str:
    """One chart. `curves` maps the name of a curve to its kind, which is its CSS class, and its values over `lam`.

    Values that are not finite leave a gap. Every point carries its figures as a tooltip.
    """
    span = finite_range([values for _, values in curves.values()])
    if span is None:
        return f"<p>{markup(title)}: no finite value</p>"
    margin = (span[1] - span[0]) * 0.04
    low, high = span[0] - margin, span[1] + margin

    def x(at: float) -> float:
        return round(_LEFT + at * (WIDTH - _LEFT - _RIGHT), 2)

    def y(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 2)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{markup(title)}">']
    marks = ticks(low, high, 5)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    for mark in marks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(mark)}" y2="{y(mark)}"/>')
        parts.append(_text("tick", _LEFT - 8, y(mark) + 4, "end", tick_text(mark, step)))
    for mark in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_text("tick", x(mark), HEIGHT - _BOTTOM + 18, "middle", f"{mark:g}"))
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(low)}" y2="{y(low)}"/>')
    parts.append(_text("label", x(0.5), HEIGHT - 4, "middle", "λ, the weight on B"))
    for name, (kind, values) in curves.items():
        path = _path([(x(a), y(v)) if math.isfinite(v) else None for a, v in zip(lam, values, strict=True)])
        parts.append(f'<path class="{kind}" d="{path}"/>')
        parts += [
            f'<circle class="{kind}" cx="{x(a)}" cy="{y(v)}" r="3">'
            f"<title>{markup(name)}, λ = {a:.4g}: {v:.4g} {markup(unit)}</title></circle>"
            for a, v in zip(lam, values, strict=True)
            if math.isfinite(v)
        ]
    return "\n".join([*parts, "</svg>"])


def markup(text: str) -> str:
    """Text within HTML or SVG, also within an attribute."""
    return escape(block(text))


def _text(name: str, x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="{name}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{markup(text)}</text>'


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """SVG path data with a new subpath after each gap."""
    words, pen_down = [], False
    for point in points:
        if point is not None:
            words.append(f"{'L' if pen_down else 'M'}{point[0]:g} {point[1]:g}")
        pen_down = point is not None
    return " ".join(words)
