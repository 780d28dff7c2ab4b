"""Dims as a page shows them: folded by their template (`h.0` … `h.11` under `h.{i}`), with figures to sort by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from rebasin_cli.report.dims import signs_note, template_of
from rebasin_cli.report.document import DimRecord
from rebasin_cli.report.figures import measure_text, percent_text
from rebasin_cli.report.thinning import MOST_ROWS


@dataclass(frozen=True, slots=True)
class DimRow:
    """One dim, or a family of dims.

    Attributes:
        count: of dims; units: of all of them; size: of each, in words.
        moved: fraction of the units that moved; gain: the sum; left: the largest distance left; None if not matched.
        members: of a family.
    """

    name: str
    count: int
    units: int
    size: str
    moved: float | None
    gain: float | None
    left: float | None
    note: str
    members: tuple[DimRow, ...] = ()

    @property
    def moved_text(self) -> str:
        return percent_text(self.moved)

    @property
    def left_text(self) -> str:
        return percent_text(self.left)

    @property
    def gain_text(self) -> str:
        return "–" if self.gain is None else f"{'+' if self.gain > 0 else ''}{measure_text(self.gain)}"


def dim_rows(dims: Mapping[str, DimRecord]) -> tuple[DimRow, ...]:
    """Dims folded by template; a template with one dim is that dim. Of very many only the first are named."""
    families: dict[str, list[str]] = {}
    for name in dims:
        families.setdefault(template_of(name), []).append(name)
    rows = [_family(template, members, dims) for template, members in islice(families.items(), MOST_ROWS)]
    rest = [dims[name] for members in islice(families.values(), MOST_ROWS, None) for name in members]
    return (*rows, *([_row(f"… and {len(families) - MOST_ROWS:,} more kinds", rest)] if rest else []))


def _family(template: str, members: Sequence[str], dims: Mapping[str, DimRecord]) -> DimRow:
    rows = tuple(_row(name, [dims[name]]) for name in members[:MOST_ROWS])
    if len(rows) == 1:
        return rows[0]
    row = _row(template, [dims[name] for name in members])
    if len(rows) < len(members):
        row = replace(row, note="; ".join(filter(None, (row.note, f"the first {MOST_ROWS:,} are listed"))))
    return DimRow(row.name, row.count, row.units, row.size, row.moved, row.gain, row.left, row.note, rows)


def _row(name: str, members: Sequence[DimRecord]) -> DimRow:
    sizes = sorted({dim.size for dim in members})
    moved = [(dim.moved * dim.size, dim.size) for dim in members if dim.moved is not None]
    gains = [dim.gain for dim in members if dim.gain is not None]
    left = [dim.relative for dim in members if dim.relative is not None]
    units = sum(size for _, size in moved)
    return DimRow(
        name, len(members), sum(dim.size for dim in members),
        f"{sizes[0] or '–'}" if len(sizes) == 1 else f"{sizes[0]}–{sizes[-1]}",
        sum(m for m, _ in moved) / units if units else None, sum(gains) if gains else None,
        max(left) if left else None, "; ".join(dict.fromkeys(_notes(members))),
    )  # fmt: skip


def _notes(members: Sequence[DimRecord]) -> Iterator[str]:
    fixed = [dim for dim in members if dim.fixed]
    for dim in members:
        if dim.owner:
            yield f"for each {template_of(dim.owner) if len(members) > 1 else dim.owner}"
    for dim in fixed:
        some = "" if len(fixed) == len(members) else f"{len(fixed)} of {len(members)} "
        yield f"{some}fixed" if dim.fixed == "fixed" else f"{some}fixed: {dim.fixed}"
    yield from signs_note(members)
