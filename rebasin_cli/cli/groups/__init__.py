"""The options that several commands have, each defined once, in groups that build one value each.

A command takes a group as one parameter:

    @grouped
    def command(checkpoint: Annotated[Path, typer.Argument()], talk: Talk) -> None: ...

An option that was not given is None where that matters, so that it can be refused where nothing reads it; its default
stands where it is used. `Talk`, which every command has, is here: what is said of a run, and where its results go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from rebasin_cli.cli import values as v
from rebasin_cli.cli.help import paragraphs, plainly
from rebasin_cli.cli.session import Session, begin
from rebasin_cli.cli.streams import PIPE
from rebasin_cli.cli.values import file_path, plot_path
from rebasin_cli.errors import UsageError

_CONTEXT = "context_of_the_call"


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Spread the groups among a command's parameters over their fields, which is how typer sees it.

    Raises:
        ValueError: two groups have an option of the same name.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hints[name] for name in signature(command).parameters if is_dataclass(hints[name])}
    flat = [Parameter(_CONTEXT, Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for name, parameter in signature(command).parameters.items():
        if name in groups:
            flat += _options(groups[name])
        else:
            flat.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name]))

    @wraps(command)
    def spread(**given: Any) -> None:
        begin(given.pop(_CONTEXT))
        made = {name: kind(**{f.name: given.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        command(**given, **made)

    flat = [plainly(parameter) for parameter in flat]
    spread.__doc__ = paragraphs(command.__doc__ or "")
    del spread.__wrapped__  # typer would look for the parameters there
    spread.__signature__ = Signature(flat)  # type: ignore[attr-defined]  # refuses a name that comes twice
    spread.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return spread


def _options(group: type[Any]) -> Iterator[Parameter]:
    """The fields of a group as parameters."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = Parameter.empty if field.default is MISSING else field.default
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name])


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
Plot = Annotated[
    Path | None,
    typer.Option(
        parser=plot_path, metavar="FILE", help="A picture of it: .png, .svg or .pdf.", rich_help_panel=_OUTPUT
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        parser=file_path, metavar="FILE", rich_help_panel=_OUTPUT,
        help="Keep the run document while measuring, and go on from it if it is there.",
    ),
]  # fmt: skip
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and write nothing.", rich_help_panel="Run")]


def one_document(report: Path | None, resume: Path | None) -> None:
    """Refuse two files for one run document.

    Raises:
        UsageError: naming both options.
    """
    if resume is not None and report is not None:
        raise UsageError("--resume keeps the run document in its own file", remedy="leave --report away")


@dataclass(frozen=True)
class Talk:
    """How much is said, and in which form."""

    form: Annotated[
        v.Form,
        typer.Option(
            "--format", help="Of the result.",
            rich_help_panel=_TALK,
        ),
    ] = v.Form.AUTO  # fmt: skip
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.", rich_help_panel=_TALK)] = False
    color: Annotated[v.Colours, typer.Option(help="Of text.", rich_help_panel=_TALK)] = (
        v.Colours.AUTO
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
        if self.json and self.form is v.Form.TEXT:
            raise UsageError("--json and --format text are two forms of one result", remedy="leave one of them away")
        printed = "--json" if self.json or self.form is v.Form.JSON else "--report -" if report == PIPE else ""
        if printed and output == PIPE:
            raise UsageError(
                f"{printed} and -o - both write to stdout", remedy="name a file for the document: --report FILE"
            )
        return Session(
            form="json" if printed else self.form.value, quiet=self.quiet, verbose=self.verbose, shows=shows,
            feeds=feeds, written=report is not None,
        )  # fmt: skip
