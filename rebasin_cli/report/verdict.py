"""What came of a run, in one line: one basin or not, barrier and cosine before and after, checked or assumed."""

from __future__ import annotations

from math import isfinite, isnan

from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.figures import loss_text
from rebasin_cli.report.measured import merge_headline, plane_headline
from rebasin_cli.report.measurements import BarrierRecord, CurveRecord

ERROR_RISE = 0.02
"""Two networks are in one basin if nowhere between them more examples than this are wrong beyond the line between their
errors: the 2 % of Frankle et al. (arXiv:1912.05671)."""

LOSS_RISE = 0.1
"""The same where there is no accuracy, as a part of the ends' mean loss; a convention of ours."""


def verdict(document: RunDocument) -> str:
    """`One basin: barrier 1.023 → 0.0098, cosine 0.036 → 0.632, function checked`; empty if nothing was aligned."""
    barrier, distance = document.barrier, document.distance
    if document.merge is not None:
        return ", ".join([merge_headline(document.merge, document.verdict), *_checked(document)])
    if document.plane is not None:
        return ", ".join([plane_headline(document.plane), *_checked(document)])
    parts = [_barriers(barrier)] if barrier is not None else []
    if distance is not None:
        parts.append(f"cosine {distance.cosine_before:.3f} → {distance.cosine_after:.3f}")
    return f"{_outcome(document)}: {', '.join([*parts, *_checked(document)])}" if parts else ""


def _checked(document: RunDocument) -> list[str]:
    """Whether it is known that what was permuted is still the same function."""
    checked = document.architecture.checked if document.architecture else None
    if checked is None:
        return []
    return ["function assumed" if checked.error is None else "function checked"]


def is_one_basin(barrier: BarrierRecord) -> bool | None:
    """Whether the best curve has no barrier to speak of; None if it has points that were not measured."""
    best = barrier.best
    if best is None or barrier.missing or not all(map(isfinite, (best[1].barrier, *best[1].loss))):
        return None
    curve = best[1]
    if any(map(isnan, curve.accuracy)):
        return curve.barrier <= LOSS_RISE * abs(curve.loss[0] + curve.loss[-1]) / 2
    return error_rise(barrier, curve) <= ERROR_RISE


def error_rise(barrier: BarrierRecord, curve: CurveRecord) -> float:
    """The most by which accuracy lies below the line between the ends, 0 to 1."""
    first, last = curve.accuracy[0], curve.accuracy[-1]
    return max((1 - lam) * first + lam * last - right for lam, right in zip(barrier.lam, curve.accuracy, strict=True))


def _outcome(document: RunDocument) -> str:
    if document.barrier is None:
        return "B aligned onto A" if document.command == "align" else "No loss measured"
    within = is_one_basin(document.barrier)
    return {True: "One basin", False: "Not one basin", None: "Not decided"}[within]


def _barriers(barrier: BarrierRecord) -> str:
    """Of the path with B as it is, and of the best one."""
    best = barrier.best
    if best is None:
        return "barrier –"
    name, curve = best
    before = f"{loss_text(barrier.naive.barrier)} → " if barrier.naive is not None and name != "naive" else ""
    return f"barrier {before}{loss_text(curve.barrier)}"
