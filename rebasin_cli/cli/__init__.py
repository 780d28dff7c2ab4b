"""The command line: one thin file a command, which parses, calls the pipeline and renders.

Here is the program: its commands and its signals; `failures` has the exit code of every way in which it can end.

Nothing in the package imports torch, numpy or scipy, so that help and completion answer at once; the pipeline does
where it works on tensors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from importlib import import_module

import typer

import rebasin_cli
from rebasin_cli import process
from rebasin_cli.cli.help import PlainCommand, PlainGroup, epilog
from rebasin_cli.cli.streams import (
    ClosedPipe,
    called,
    colours_as_asked,
    need_stdout,
    print_error_parts,
    print_traceback,
)
from rebasin_cli.errors import SystemFailure, UsageError

_SHOWS = {"--help", "-h", "--version"}

COMMANDS = ("align", "interpolate", "plane", "merge", "apply", "repair", "inspect", "arch", "report", "rerun")
"""In the order of `--help`; each is a module of `cli.commands`."""
GROUPS = ("arch",)
"""Those that have commands."""


def program(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    """The program with some of its commands: importing and describing all of them takes time at every start."""
    app = typer.Typer(
        name="rebasin",
        help="Align, interpolate and judge neural networks: Git Re-Basin weight matching for checkpoint files.",
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=epilog(""),
        cls=PlainGroup,
    )
    app.callback()(_root)
    for name in commands:
        module = import_module(f"rebasin_cli.cli.commands.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name, epilog=epilog(name), cls=PlainCommand)(module.command)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rebasin {rebasin_cli.__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


_ANYWHERE = {"-q", "--quiet", "-v", "--verbose", "--debug", "--json"}
_WITH_VALUE = {"--color", "--format"}


def _as_parsed(arguments: Sequence[str], groups: Collection[str]) -> list[str]:
    """`help align` as `align --help`, and `--quiet align A B` as `align --quiet A B`.

    Args:
        groups: commands that have commands, whose name is two words.
    """
    words = list(arguments)
    if words[:1] == ["help"]:
        return [*words[1:], "--help"]
    before: list[str] = []
    while words and words[0].partition("=")[0] in _ANYWHERE | _WITH_VALUE:
        takes = 2 if words[0] in _WITH_VALUE else 1
        before, words = before + words[:takes], words[takes:]
    named = 2 if words[:1] and words[0] in groups else 1
    if not words or words[0].startswith("-") or len(words) < named:
        return list(arguments)
    return [*words[:named], *before, *words[named:]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code; every failure has been told on stderr."""
    arguments = _as_parsed(sys.argv[1:] if arguments is None else arguments, GROUPS)
    called.set(tuple(arguments))
    with colours_as_asked(arguments):
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    debug = "--debug" in arguments
    _wait_quietly()
    try:
        with nullcontext() if process.signals_end_at_once() else process.signals_raised():
            _refuse_empty(arguments)
            if not arguments or _SHOWS & set(arguments):
                need_stdout()
            else:
                _need_folder()
            named = arguments[:1] if arguments[:1] and arguments[0] in COMMANDS else COMMANDS
            code = typer.main.get_command(program(named)).main(
                args=list(arguments), prog_name="rebasin", standalone_mode=False, obj=tuple(arguments)
            )
            if sys.stdout is not None:
                sys.stdout.flush()
            if code == process.INTERRUPTED:  # typer makes an exit code of KeyboardInterrupt, without a word
                print_error_parts("interrupted")
            return code if isinstance(code, int) else 0
    except BaseException as failure:
        if debug and not isinstance(failure, (SystemExit, ClosedPipe)):
            print_traceback()
        from rebasin_cli.cli.failures import exit_code_of

        return exit_code_of(failure)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse an empty argument, which is what a shell makes of a variable that is not set; as a path it is `.`.

    Raises:
        UsageError: naming the option before it.
    """
    before = "the first argument"
    for argument in arguments:
        option, sign, value = argument.partition("=")
        if not argument or (option.startswith("--") and sign and not value):
            place = option or before
            raise UsageError(f"{place}: nothing is given", remedy="see whether a variable in the command is empty")
        before = argument if argument.startswith("-") else f"the argument after {argument}"


def _need_folder() -> None:
    """Refuse to work in a folder that was deleted: some builds of torch end the process there, with a code of theirs.

    Raises:
        SystemFailure: the current folder is gone, or may not be looked at.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise SystemFailure(
            f"the current folder cannot be used: {error.strerror}", remedy="change to a folder that is there: cd FOLDER"
        ) from error


def _wait_quietly() -> None:
    """Have OpenMP's threads sleep while they wait, unless the environment says otherwise.

    Spinning threads take the cores from each other as soon as anything else runs: on a busy machine commands take
    two to three times as long. Read when torch is loaded, which nothing has done yet.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
