"""A run document as Markdown, for a pull request or a model card."""

from __future__ import annotations

from rebasin_cli.report.contents import facts, grids, headline
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.measured import Grid


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
    blocks.append(f"<sub>`rebasin {document.command}` · {_escaped(versions)} · {_escaped(document.device)}</sub>")
    return "\n\n".join(blocks) + "\n"


def _table(grid: Grid) -> str:
    lines = [_row(grid.columns), _row([":--" if i in grid.words else "--:" for i in range(len(grid.columns))])]
    lines += [_row(row) for row in grid.rows]
    return "\n".join(lines)


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """No character of a path or a key acts as markup."""
    for sign in "\\`*_|<[":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
