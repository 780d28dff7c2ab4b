"""Loss along a path between two networks, and how high it rises above its ends.

Two definitions are in use and differ where the ends differ; both are reported, and gates use the first:
the rise above the *line* between the end losses (Entezari et al. 2021, arXiv:2110.06296), and above their
*mean* (Frankle et al. 2020, arXiv:1912.05671, and Git Re-Basin), which is positive on any slope.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rebasin_cli.evaluation.scores import Bin


def barrier_above_line(lam: Sequence[float], loss: Sequence[float]) -> float:
    """max over λ of loss(λ) − ((1 − λ)·loss(0) + λ·loss(1)), in the unit of the loss; never below 0 at the ends.

    The ends are the first and last points. A loss that is not finite makes the barrier NaN, or infinite where
    only points between finite ends are infinite: it is never passed over.
    """
    return _highest([value - ((1 - x) * loss[0] + x * loss[-1]) for x, value in zip(lam, loss, strict=True)])


def barrier_above_mean(loss: Sequence[float]) -> float:
    """max over λ of loss(λ) − ½(loss(0) + loss(1)), in the unit of the loss; not finite as `barrier_above_line`."""
    mean = 0.5 * (loss[0] + loss[-1])
    return _highest([value - mean for value in loss])


def _highest(values: list[float]) -> float:
    # max() drops or keeps a NaN depending on where it stands
    return math.nan if any(math.isnan(value) for value in values) else max(values)


@dataclass(frozen=True, slots=True)
class Curve:
    """What was measured along one path.

    Attributes:
        lam: the points, weight on B, ascending from 0 to 1.
        loss: mean cross-entropy at each, in nats per example; NaN or infinite where the network's output was.
        accuracy: fraction of examples classified correctly, 0 to 1; NaN if it was not measured.
        metrics: whatever else was, by name.
        reliability: at each, the answers by their confidence; empty if it was measured nowhere.
    """

    lam: tuple[float, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    metrics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    reliability: tuple[tuple[Bin, ...], ...] = ()

    @property
    def barrier(self) -> float:
        """Rise above the line between the ends (Entezari et al.)."""
        return barrier_above_line(self.lam, self.loss)

    @property
    def barrier_to_mean(self) -> float:
        """Rise above the mean of the ends (Frankle et al.)."""
        return barrier_above_mean(self.loss)

    @property
    def non_finite(self) -> tuple[float, ...]:
        """The λ whose loss is NaN or infinite."""
        return tuple(x for x, value in zip(self.lam, self.loss, strict=True) if not math.isfinite(value))
