"""What is said of a run, and where its results go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rebasin_cli.cli import choices as c
from rebasin_cli.cli.streams import PIPE
from rebasin_cli.cli.values import file_path
from rebasin_cli.errors import UsageError

if TYPE_CHECKING:
    from rebasin_cli.cli.session import Session

_OUTPUT, _TALK = "Output", "Messages"

Report = Annotated[
    Path | None,
    typer.Option(
        readable=False, metavar="FILE", help="Where the run document is written; - prints it.", rich_help_panel=_OUTPUT
    ),
]
AllowNonFinite = Annotated[
    bool, typer.Option("--allow-non-finite", help="Write mixed values that overflow, too.", rich_help_panel=_OUTPUT)
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.", rich_help_panel=_OUTPUT)]
SavePermutation = Annotated[
    Path | None,
    typer.Option(parser=file_path, metavar="FILE", help="Where the permutation is written.", rich_help_panel=_OUTPUT),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and write nothing.", rich_help_panel="Run")]


@dataclass(frozen=True)
class Talk:
    """How much is said, and in which form."""

    form: Annotated[
        c.Form,
        typer.Option(
            "--format", help="Of the result.",
            rich_help_panel=_TALK,
        ),
    ] = c.Form.AUTO  # fmt: skip
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.", rich_help_panel=_TALK)] = False
    color: Annotated[c.Colours, typer.Option(help="Of text.", rich_help_panel=_TALK)] = (
        c.Colours.AUTO
    )  # is carried out before anything is said, by `colours_as_asked`
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, warnings or notes on stderr.", rich_help_panel=_TALK)
    ] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every dim, every sweep.", rich_help_panel=_TALK)] = (
        False
    )
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_TALK)] = (
        False
    )

    def session(
        self, *, shows: bool = False, feeds: bool = False, report: Path | None = None, output: Path | None = None
    ) -> Session:
        """What tells the user of the run.

        Args:
            shows: whether what the command prints is all that it does.
            feeds: whether the next command works on the run document.
            report, output: where the document and a checkpoint go, `-` for stdout.

        Raises:
            UsageError: two results for stdout, or two forms of one.
            SystemFailure: it would print to a stdout that is closed.
        """
        from rebasin_cli.cli.session import Session

        if self.json and self.form is c.Form.TEXT:
            raise UsageError("--json and --format text are two forms of one result", remedy="leave one of them away")
        printed = "--json" if self.json or self.form is c.Form.JSON else "--report -" if report == PIPE else ""
        if printed and output == PIPE:
            raise UsageError(
                f"{printed} and -o - both write to stdout", remedy="name a file for the document: --report FILE"
            )
        return Session(
            form="json" if printed else self.form.value, quiet=self.quiet, verbose=self.verbose, shows=shows,
            feeds=feeds, written=report is not None,
        )  # fmt: skip
