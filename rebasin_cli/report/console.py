"""The summary of a run on a terminal."""

from __future__ import annotations

from io import StringIO
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rebasin_cli.report.contents import facts, grids, headline, short_path
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.measured import Grid
from rebasin_cli.report.plane_text import plane_text
from rebasin_cli.report.terminal_plot import loss_plot
from rebasin_cli.safe_text import one_line, printable

PLOT_WIDTH = 78
"""A plot wider than this says no more, and 80 columns is what a terminal has at least."""


def print_summary(console: Console, document: RunDocument, *, verbose: bool = False) -> None:
    """Print headline, facts, tables and the plot; `verbose` shows every dim on a line of its own."""
    unicode = console.encoding.lower().startswith("utf")
    title = one_line(headline(document))
    console.print(Text(_plain(title, unicode), style="bold"))
    rows = [(one_line(name), printable(short_path(value))) for name, value in facts(document)]
    margin = max((len(_plain(name, unicode)) for name, _ in rows), default=0)
    for name, value in rows:
        line = Text("  ")
        line.append(f"{_plain(name, unicode):<{margin}}  ", "dim")
        room = max(20, console.width - margin - 4)
        pieces = wrap(_plain(value, unicode), room, break_long_words=False, break_on_hyphens=False)
        line.append(("\n" + " " * (margin + 4)).join(pieces))  # a long path stays whole, to be copied
        console.print(line, soft_wrap=True)
    for grid in grids(document, every_dim=verbose):
        console.print()
        console.print(_table(grid, unicode))
    if document.barrier:
        console.print()
        plot = loss_plot(document.barrier, width=min(console.width, PLOT_WIDTH), unicode=unicode)
        console.print(plot, no_wrap=True, crop=False)
    if document.plane:
        console.print()
        picture = plane_text(document.plane, width=min(console.width, PLOT_WIDTH), unicode=unicode)
        console.print(picture, no_wrap=True, crop=False)


def to_text(document: RunDocument) -> str:
    """The summary as plain text of 80 columns, for a file or a pipe."""
    console = Console(file=StringIO(), width=80, color_system=None, force_terminal=False)
    print_summary(console, document)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def _table(grid: Grid, unicode: bool) -> Table:
    table = Table(
        title=Text(_plain(one_line(grid.title), unicode), "bold"), title_justify="left",
        box=box.SIMPLE_HEAD if unicode else box.ASCII2, pad_edge=False, padding=(0, 1), show_edge=False,
    )  # fmt: skip
    for index, column in enumerate(grid.columns):
        words = index in grid.words
        table.add_column(
            Text(_plain(one_line(column), unicode)),
            justify="left" if words else "right",
            overflow="fold",
            no_wrap=not words,
        )
    for row in grid.rows:
        cells = (printable(cell) if index else one_line(cell) for index, cell in enumerate(row))
        table.add_row(*(Text(_plain(cell, unicode)) for cell in cells))
    return table


_ASCII = {
    "λ": "lambda", "π": "pi", "‖": "|", "⟨": "<", "⟩": ">", "−": "-", "→": "->", "–": "-", "×": "x", "…": "...",
}  # fmt: skip


def _plain(text: str, unicode: bool) -> str:
    """The text, spelled in ASCII where the terminal shows nothing else."""
    if unicode:
        return text
    for sign, word in _ASCII.items():
        text = text.replace(sign, word)
    return text.encode("ascii", "replace").decode("ascii")
