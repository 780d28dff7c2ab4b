"""How the losses of a plane become bands: shared by every picture of it."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from rebasin_cli.report.measurements import PlaneRecord

BANDS = 10
COLOURS = (
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

_HIGHEST = 0.9  # quantile above which all is one band: far outside of the triangle losses are astronomical


@dataclass(frozen=True, slots=True)
class Levels:
    """Losses from band to band, ascending: evenly in the logarithm where all losses are positive."""

    edges: tuple[float, ...]

    @staticmethod
    def of(plane: PlaneRecord) -> Levels | None:
        """The bands of a plane; None if no loss is finite."""
        cells = sorted(loss for row in plane.loss for loss in row if math.isfinite(loss))
        named = [point.loss for point in plane.points.values() if math.isfinite(point.loss)]
        if not cells and not named:
            return None
        low = min([*cells[:1], *named])
        high = max([cells[int(_HIGHEST * (len(cells) - 1))] if cells else low, *named])
        if not high > low:
            return Levels(())
        steps = [k / BANDS for k in range(1, BANDS)]
        if low > 0:
            return Levels(tuple(low * (high / low) ** step for step in steps))
        return Levels(tuple(low + (high - low) * step for step in steps))

    def band(self, loss: float) -> int | None:
        """Which band a loss is in, from 0; None for one that is not finite."""
        return bisect_right(self.edges, loss) if math.isfinite(loss) else None


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
