"""How the losses of a plane become bands: shared by every picture of it."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from rebasin_cli.report.document import PlaneRecord

BANDS = 10
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
