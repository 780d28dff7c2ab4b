"""The summary of a run on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.measured import Grid
from rebasin_cli.report.names import short_path
from rebasin_cli.report.summary import summary_facts, summary_grids, title
from rebasin_cli.report.thinning import shortened, thinned
from rebasin_cli.safe_text import in_ascii, one_line, printable, wrapped

PLOT_WIDTH = 78
"""A plot wider than this says no more, and 80 columns is what a terminal has at least."""


_WHOLE = "next"  # the row of a command, which is pasted


def print_summary(
    console: Console, document: RunDocument, *, verbose: bool = False, document_file: str = "", then: str = ""
) -> None:
    """Print the verdict, the facts, the plot, the tables, what was written and how to go on.

    Args:
        verbose: every dim and every λ on a line of its own.
        document_file: where the run document was written; then: the next command.
    """
    page = _Page(console)
    page.line(one_line(title(document)), "bold")
    facts = summary_facts(document)
    whole, document = document, thinned(document)
    facts += [("thinned", note) for note in document.warnings[len(whole.warnings) :]]
    page.rows([(one_line(name), printable(short_path(value))) for name, value in facts])
    if document.barrier:
        from rebasin_cli.report.terminal_plot import loss_plot

        plot = loss_plot(document.barrier, width=min(console.width, PLOT_WIDTH), unicode=page.unicode)
        console.print()
        page.block(plot)
    if document.plane:
        from rebasin_cli.report.plane_text import plane_text

        console.print()
        page.block(plane_text(document.plane, width=min(console.width, PLOT_WIDTH), unicode=page.unicode))
    for grid in summary_grids(document, verbose=verbose):
        console.print()
        page.line(one_line(grid.title), "bold")
        page.block(page.table(grid))
    written = [*document.outputs.values(), *filter(None, [document_file])]
    ending = [("wrote", "\n".join(printable(short_path(path)) for path in written))] if written else []
    if then:
        ending.append((_WHOLE, printable(then)))
    if ending:
        console.print()
        page.rows(ending)


def to_text(document: RunDocument) -> str:
    """The summary as plain text of 80 columns, for a file or a pipe."""
    console = Console(file=StringIO(), width=80, color_system=None, force_terminal=False)
    print_summary(console, document)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


class _Page:
    """Lines and tables on a console, spelled in ASCII where it shows nothing else."""

    def __init__(self, console: Console) -> None:
        self.console, self.unicode = console, console.encoding.lower().startswith("utf")

    def line(self, text: str, style: str = "") -> None:
        """One line, wrapped at words where it is longer than the terminal is wide."""
        self.console.print(Text(self._plain(text), style))

    def block(self, shown: Text | Table) -> None:
        """Several lines that fit, without the spaces that fill them up."""
        with self.console.capture() as lines:
            self.console.print(shown, no_wrap=True, crop=False)
        self.console.file.writelines(f"{line.rstrip()}\n" for line in lines.get().splitlines())

    def rows(self, rows: Sequence[tuple[str, str]]) -> None:
        """Names and values; a command or a long path stays whole, to be copied."""
        margin = max((len(self._plain(name)) for name, _ in rows), default=0)
        for name, value in rows:
            line = Text("  ")
            line.append(f"{self._plain(name):<{margin}}  ", "dim")
            room = self.console.width - margin - 4
            parts = self._plain(value).split("\n")
            pieces = parts if name == _WHOLE else [piece for part in parts for piece in wrapped(part, room)]
            line.append(("\n" + " " * (margin + 4)).join(pieces))
            self.console.print(line, soft_wrap=True)

    def table(self, grid: Grid) -> Table:
        """A grid whose words are wrapped and whose figures are not."""
        grid = shortened(grid)
        table = Table(
            box=box.SIMPLE_HEAD if self.unicode else box.ASCII2, pad_edge=False, padding=(0, 1), show_edge=False,
        )  # fmt: skip
        for index, column in enumerate(grid.columns):
            words = index in grid.words
            longest = max((len(row[index]) for row in grid.rows), default=0)
            table.add_column(
                Text(self._plain(one_line(column))),
                justify="left" if words else "right",
                overflow="fold",
                no_wrap=not words or (not index and longest <= self.console.width // 2),
            )
        for row in grid.rows:
            cells = (printable(cell) if index else one_line(cell) for index, cell in enumerate(row))
            table.add_row(*(Text(self._plain(cell)) for cell in cells))
        return table

    def _plain(self, text: str) -> str:
        return text if self.unicode else in_ascii(text).encode("ascii", "replace").decode("ascii")
