"""Results as they are shown: a few lines in a terminal, a small table in a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence

from rebasin_cli.api.calls import as_keywords
from rebasin_cli.report.document import ArchitectureRecord, RunDocument
from rebasin_cli.report.figures import percent_text
from rebasin_cli.safe_text import LONGEST_NAME, one_line

Row = tuple[str, str]
"""What a figure is called, and the figure."""

_MOST = 12  # rows that are shown


class Shown:
    """A result that shows itself by a title and rows of figures."""

    def _title(self) -> str:
        raise NotImplementedError

    def _rows(self) -> list[Row]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return text_of(self._title(), self._rows())

    def _repr_html_(self) -> str:
        return html_table(self._title(), self._rows())


def text_of(title: str, rows: Sequence[Row]) -> str:
    """A title and a line a row; a long list is cut."""
    width = max((len(_safe(name)) for name, _ in rows), default=0)
    lines = [f"  {_safe(name):{width}}  {_safe(value)}" for name, value in _cut(rows)]
    return "\n".join([_safe(title), *lines])


def html_table(title: str, rows: Sequence[Row]) -> str:
    """The same as a table."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{_escaped(name)}</th><td style='text-align:left'>{_escaped(value)}</td></tr>"
        for name, value in _cut(rows)
    )
    return f"<table><caption style='text-align:left'>{_escaped(title)}</caption><tbody>{cells}</tbody></table>"


def spec_row(document: RunDocument) -> Row:
    """The spec, and how it is known that the network stays the same."""
    architecture = document.architecture
    return ("spec", f"{architecture.name}, {_checked(architecture)}" if architecture else "none fits")


def distance_rows(document: RunDocument) -> list[Row]:
    """Cosine and distance before and after, and how many units moved."""
    rows: list[Row] = []
    if (distance := document.distance) is not None:
        rows.append(("cosine", f"{distance.cosine_before:.4f} → {distance.cosine_after:.4f}"))
        rows.append(("distance", f"{distance.before:.5g} → {distance.after:.5g}"))
    if document.architecture is not None:
        dims = [dim for dim in document.architecture.dims.values() if dim.moved is not None and dim.fixed is None]
        if dims:
            units = sum(dim.size for dim in dims)
            moved = sum(dim.size * (dim.moved or 0.0) for dim in dims)
            rows.append(("moved", f"{percent_text(moved / units if units else 0.0)} of the units of {len(dims)} dims"))
    return rows


def _checked(architecture: ArchitectureRecord) -> str:
    checked = architecture.checked
    if checked is None:
        return "nothing was permuted"
    if checked.error is None:
        return f"assumed to fit: {as_keywords(checked.why)}"
    return f"checked: outputs of {checked.network} unchanged to {checked.error:.0e}"


def _cut(rows: Sequence[Row]) -> list[Row]:
    if len(rows) <= _MOST:
        return list(rows)
    return [*rows[: _MOST - 1], ("…", f"{len(rows) - _MOST + 1} more")]


def _safe(text: str) -> str:
    return one_line(text, 2 * LONGEST_NAME)


def _escaped(text: str) -> str:
    return html.escape(_safe(text))
