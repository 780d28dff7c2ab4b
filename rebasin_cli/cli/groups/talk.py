"""What is said of a run, and where its results go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rebasin_cli.cli.values import file_path

if TYPE_CHECKING:
    from rebasin_cli.cli.session import Session

_OUTPUT, _TALK = "Output", "Messages"

Report = Annotated[
    Path | None,
    typer.Option(parser=file_path, metavar="FILE", help="Where the run document is written.", rich_help_panel=_OUTPUT),
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

    json: Annotated[
        bool, typer.Option("--json", help="Print the run document, on a terminal too.", rich_help_panel=_TALK)
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, warnings or notes on stderr.", rich_help_panel=_TALK)
    ] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every dim, every sweep.", rich_help_panel=_TALK)] = (
        False
    )
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_TALK)] = (
        False
    )

    def session(self, *, shows: bool = False) -> Session:
        """What tells the user of the run.

        Args:
            shows: whether what the command prints is all that it does.

        Raises:
            SystemFailure: it would print to a stdout that is closed.
        """
        from rebasin_cli.cli.session import Session

        return Session(json=self.json, quiet=self.quiet, verbose=self.verbose, shows=shows)
