"""Numbers as people read them: times, fractions, and the ticks of an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence


def seconds_text(seconds: float) -> str:
    """`0.004` → `4 ms`, `75` → `1 min 15 s`; what was not measured is a dash."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent_text(fraction: float | None) -> str:
    """`0.9981` → `99.8 %`; a missing or undefined fraction is a dash."""
    return "–" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.1f} %"


def loss_text(loss: float | None) -> str:
    """A loss or a barrier in nats: three digits behind the point, two significant ones below 0.01."""
    if loss is None:
        return "–"
    if not math.isfinite(loss):
        return "not finite"
    if abs(loss) >= 1e5:
        return f"{loss:.3g}"
    if abs(loss) >= 0.00995 or abs(loss) < 5e-7:
        return f"{loss:.3f}"
    return f"{loss:.4f}" if abs(loss) >= 0.000995 else f"{loss:.2g}"


def measure_text(value: float | None) -> str:
    """A norm, an objective or a metric: four significant digits; what was not measured is a dash."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def count_text(count: int, noun: str) -> str:
    """`1 tensor`, `8 tensors`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def ticks(low: float, high: float, wanted: int) -> tuple[float, ...]:
    """Round numbers (1, 2 or 5 times a power of ten) within [low, high], about `wanted` of them."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return (low,)
    rough = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(k * step for k in range(first, last + 1)) or (low,)


def tick_text(value: float, step: float) -> str:
    """A tick with just the digits that its step needs."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 3
    return f"{value:.{min(digits, 6)}f}"


def finite_range(curves: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Lowest and highest finite value of all curves, widened if they are one; None if there is none."""
    values = [v for curve in curves for v in curve if math.isfinite(v)]
    if not values:
        return None
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        margin = max(1e-3, abs(high) * 0.05)
        return low - margin, high + margin
    return low, high
