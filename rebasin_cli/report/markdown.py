"""A run document as Markdown, for a pull request or a model card."""

from __future__ import annotations

import re

from rebasin_cli.report.contents import facts, grids, headline
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.measured import Grid
from rebasin_cli.safe_text import one_line, printable

# Signs of markup, the `&` of an entity, and what makes a link of `https://…` and `www.…`.
_ACTING = re.compile(r"[\\`*_|<\[]|&(?=#?\w+;)|:(?=//)|(?<=www)\.", re.IGNORECASE)


def to_markdown(document: RunDocument) -> str:
    """Headline, facts, warnings and tables; every dim is shown."""
    blocks = [f"# {_escaped(headline(document))}"]
    rows = tuple((name, value) for name, value in facts(document))
    blocks.append(_table(Grid("", ("", ""), rows, words=(0, 1))))
    if document.warnings:
        blocks.append("\n".join(f"- **Note:** {_escaped(warning)}" for warning in document.warnings))
    for grid in grids(document, every_dim=True):
        blocks.append(f"## {_escaped(grid.title)}")
        blocks.append(_table(grid))
    versions = ", ".join(f"{name} {version}" for name, version in document.versions.items())
    blocks.append(
        f"<sub>`{_code(f'rebasin {document.command}')}` · {_escaped(versions)} · {_escaped(document.device)}</sub>"
    )
    return "\n\n".join(blocks) + "\n"


def _table(grid: Grid) -> str:
    lines = [_row(grid.columns), _row([":--" if i in grid.words else "--:" for i in range(len(grid.columns))])]
    lines += [_row(row) for row in grid.rows]
    return "\n".join(lines)


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """No character of a path or a key acts as markup, and no address becomes a link by itself."""
    return " ".join(_ACTING.sub(r"\\\g<0>", printable(text)).split())


def _code(text: str) -> str:
    """Within backticks, where nothing can be escaped."""
    return one_line(text).replace("`", "'")
