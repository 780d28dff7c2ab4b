"""Many checkpoints aligned onto one: a line, and a table that is folded where there are many."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rebasin_cli.report.document import DistanceRecord, MemberRecord, MembersRecord
from rebasin_cli.report.figures import count_text, measure_text, percent_text
from rebasin_cli.report.measured import Grid
from rebasin_cli.report.names import input_names

_FOLDED = 12  # rows that a screen has room for


def members_headline(record: MembersRecord) -> str:
    """`998 of 1000 checkpoints aligned onto A: median cosine 0.032 → 0.287`."""
    found = [member.distance for member in record.aligned if member.distance]
    order = "brought into one order with A" if record.together else "aligned onto A"
    total = len(record.members) + record.missing
    count = f"{len(found)} of {total} checkpoints" if len(found) < total else count_text(total, "checkpoint")
    if not found:
        return f"{count} {order}"
    before, after = (median(getattr(d, which) for d in found) for which in ("cosine_before", "cosine_after"))
    return f"{count} {order}: median cosine {before:.3f} → {after:.3f}"


def members_grid(record: MembersRecord, *, folded: bool) -> Grid:
    """Distance and cosine of every member from A, before and after, and why the others failed.

    Args:
        folded: show a screenful: the first, those that failed, and the least, median and largest of all.
    """
    names = input_names({str(i): member.input for i, member in enumerate(record.members)})
    rows = [(member, _row(names[str(i)], member)) for i, member in enumerate(record.members)]
    columns = ("checkpoint", "distance", "aligned", "cosine", "aligned", "moved")
    if not folded or len(rows) <= _FOLDED:
        return Grid("Checkpoints", columns, tuple(row for _, row in rows))
    failed = [row for member, row in rows if member.failure]
    shown = [row for member, row in rows if not member.failure][: max(1, _FOLDED - 4 - min(len(failed), 4))]
    left = len(rows) - len(shown) - len(failed[:4])
    folded_rows = [*shown, *failed[:4], (f"… {left} more (--verbose lists all)", *[""] * 5)]
    return Grid("Checkpoints", columns, (*folded_rows, *_spread([member for member, _ in rows])))


def _row(name: str, member: MemberRecord) -> tuple[str, ...]:
    if member.distance is None:
        return (name, "failed", *[""] * 4)
    return (name, *_figures(member.distance), percent_text(member.moved or 0.0))


def _figures(distance: DistanceRecord) -> tuple[str, ...]:
    return (
        measure_text(distance.before), measure_text(distance.after),
        f"{distance.cosine_before:.3f}", f"{distance.cosine_after:.3f}",
    )  # fmt: skip


def _spread(members: Sequence[MemberRecord]) -> list[tuple[str, ...]]:
    """Least, median and largest of each figure."""
    found = [(m.distance, m.moved or 0.0) for m in members if m.distance]
    if not found:
        return []
    rows = []
    for name, pick in (("least", min), ("median", median), ("largest", max)):
        parts = (pick(getattr(d, f) for d, _ in found) for f in DistanceRecord.__struct_fields__)
        rows.append((name, *_figures(DistanceRecord(*parts)), percent_text(pick(moved for _, moved in found))))
    return rows
