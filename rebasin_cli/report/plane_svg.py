"""The plane through A, B and π(B) as SVG, for the HTML report: filled bands, corners and the triangle's sides."""

from __future__ import annotations

from html import escape
from itertools import groupby

from rebasin_cli.report.figures import loss_text
from rebasin_cli.report.measurements import PlaneRecord
from rebasin_cli.report.plane_levels import BANDS, COLOURS, Levels, loss_at

_WIDE = 640
_FINE = 160  # cells across, whatever the grid: bands with edges that look like contour lines
_ROOM = 90  # beside the picture, for the scale


def plane_svg(plane: PlaneRecord) -> str:
    """The picture; an empty text if no loss is finite."""
    levels = Levels.of(plane)
    if levels is None or len(plane.x) < 2 or len(plane.y) < 2:
        return ""
    across, up = plane.x[-1] - plane.x[0], plane.y[-1] - plane.y[0]
    size = _WIDE / _FINE
    rows = max(2, round(_FINE * up / across))
    high = rows * size
    parts = [
        f'<svg class="plane" viewBox="0 0 {_WIDE + _ROOM} {high:.0f}" role="img" '
        'shape-rendering="crispEdges" '
        'aria-label="loss in the plane through A, B and B aligned" font-family="sans-serif" font-size="14">'
    ]
    for row in range(rows):
        y = plane.y[-1] - up * (row + 0.5) / rows
        bands = [levels.band(loss_at(plane, plane.x[0] + across * (k + 0.5) / _FINE, y)) for k in range(_FINE)]
        at = 0
        for band, run in groupby(bands):
            count = len(list(run))
            if band is not None:
                parts.append(
                    f'<rect x="{at * size:.2f}" y="{row * size:.2f}" width="{count * size + 0.3:.2f}" '
                    f'height="{size + 0.3:.2f}" fill="{COLOURS[band]}"/>'
                )
            at += count
    places = {
        name: ((point.x - plane.x[0]) / across * _WIDE, (plane.y[-1] - point.y) / up * high)
        for name, point in plane.points.items()
        if name in ("A", "B", "π(B)")
    }
    for name in ("B", "π(B)"):
        if "A" in places and name in places:
            (x0, y0), (x1, y1) = places["A"], places[name]
            dash = ' stroke-dasharray="6 5"' if name == "B" else ""
            parts.append(
                f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="white" stroke-width="2"{dash}/>'
            )
    for name, (x, y) in places.items():
        loss = loss_text(plane.points[name].loss)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="white" stroke="black"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle" class="corner" fill="white" '
            f'stroke="black" stroke-width="3" paint-order="stroke">{escape(name)} {loss}</text>'
        )
    parts += _scale(levels, high)
    return "".join(parts) + "</svg>"


def _scale(levels: Levels, high: float) -> list[str]:
    """What the colours mean, beside the picture."""
    step = high / BANDS
    parts = []
    for band in range(BANDS):
        y = high - (band + 1) * step
        parts.append(f'<rect x="{_WIDE + 12}" y="{y:.1f}" width="14" height="{step:.1f}" fill="{COLOURS[band]}"/>')
    for band, edge in enumerate(levels.edges):
        y = high - (band + 1) * step
        parts.append(f'<text x="{_WIDE + 32}" y="{y + 5:.1f}" fill="currentColor">{loss_text(edge)}</text>')
    return parts
