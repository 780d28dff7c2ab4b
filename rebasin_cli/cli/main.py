"""The program: its commands, its signals, and the exit code of every way in which it can end.

0 done                          4 the system: cannot be read or written, no memory
1 a gate or a check failed     70 a bug of ours
2 usage                       130 interrupted, 143 terminated, 129 the terminal was closed (SIGHUP)
3 contents do not fit         141 the reader of our pipe went away (quietly)
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from importlib import import_module

import typer

import rebasin_cli
from rebasin_cli import signals
from rebasin_cli.cli.examples import epilog
from rebasin_cli.cli.messages import called, colours_as_asked, print_error, print_error_parts, print_traceback
from rebasin_cli.cli.plain_help import PlainCommand, PlainGroup
from rebasin_cli.cli.streams import ClosedPipe, need_stdout
from rebasin_cli.errors import ContentError, RebasinError, SystemFailure, UsageError

CLOSED_PIPE, INTERRUPTED, BUG = 141, 130, 70

_SHOWS = {"--help", "-h", "--version"}
_COMPLETION = "_REBASIN_COMPLETE"  # set by a shell that asks for completions; typer exits then
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "failed to map segment")

# Typer has its own copy of click by now and used the package before; this is the base of usage errors in both.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

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
        with nullcontext() if signals.are_settled() else signals.raising():
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
            if code == INTERRUPTED:  # typer makes an exit code of KeyboardInterrupt, without a word
                print_error_parts("interrupted")
            return code if isinstance(code, int) else 0
    except BaseException as failure:
        if debug and not isinstance(failure, (SystemExit, ClosedPipe)):
            print_traceback()
        return _exit_code(failure)


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


def _exit_code(failure: BaseException) -> int:
    """Tell a failure and give its exit code."""
    if isinstance(failure, RebasinError):
        print_error(failure)
        return failure.exit_code
    if isinstance(failure, _UsageError):
        return _tell_usage(failure)
    if isinstance(failure, (KeyboardInterrupt, typer.Abort)):
        print_error_parts("interrupted")
        return INTERRUPTED
    if isinstance(failure, signals.Ended):
        print_error_parts(failure.word)
        return failure.code
    if isinstance(failure, (ClosedPipe, BrokenPipeError)):
        return CLOSED_PIPE
    if isinstance(failure, SystemExit):
        return _code_of_exit(failure)
    system = _from_the_system(failure)
    if system is not None:
        print_error(system)
        return system.exit_code
    frame = traceback.extract_tb(failure.__traceback__)[-1]
    print_error_parts(
        f"this is a bug in rebasin: {type(failure).__name__}: {failure}",
        where=f"{os.path.basename(frame.filename)}:{frame.lineno}, in {frame.name}",
        remedy="please report it, with the command and what it prints with --debug",
    )
    return BUG


def _tell_usage(failure: Exception) -> int:
    """A usage error of the option parser, in the form of our own."""
    from rebasin_cli.cli.messages import usage_parts

    print_error_parts(*usage_parts(failure))
    return UsageError.exit_code


def _code_of_exit(failure: SystemExit) -> int:
    if isinstance(failure.__context__, BrokenPipeError):  # so rich and typer leave when the reader of stdout went away
        return CLOSED_PIPE
    if _COMPLETION in os.environ:
        return failure.code if isinstance(failure.code, int) else 1
    print_error_parts(  # code of the user's own, such as a network's; what we were asked for is not done
        f"code that was run here ended the program: sys.exit({failure.code!r})",
        remedy="have it return, or raise an exception that says what is wrong",
    )
    return ContentError.exit_code


def _from_the_system(failure: BaseException) -> SystemFailure | None:
    """What the system refused us, in whichever exception of a library that came."""
    text = str(failure)
    if _is_out_of_memory(failure):
        return SystemFailure("there is not enough memory", remedy="`--dry-run` estimates what a run needs")
    if isinstance(failure, RuntimeError) and "can't start new thread" in text:
        return SystemFailure("no more threads can be started", remedy="raise the limit (ulimit -u)")
    if isinstance(failure, ModuleNotFoundError) and failure.name == "torch":
        return SystemFailure(
            "this needs torch, which is not installed",
            remedy="install the build for your machine; where there is no GPU, the one for CPUs (others bring CUDA)",
        )
    if isinstance(failure, ImportError) and not str(failure.name).startswith("rebasin_cli"):
        return SystemFailure(
            f"{failure.name or 'a library'} cannot be loaded: {text}",
            remedy="look at the limits of the process (ulimit -a), or install rebasin again",
        )
    if isinstance(failure, OSError):
        place = f": {failure.filename}" if failure.filename else ""
        return SystemFailure(
            f"{failure.strerror or failure}{place}", remedy="check the path, its permissions and the disk"
        )
    return None


def _is_out_of_memory(failure: BaseException) -> bool:
    # torch's own classes are told by name and text: importing torch to ask would be a second or two for nothing.
    told = type(failure).__name__ == "OutOfMemoryError" or any(words in str(failure).lower() for words in _NO_MEMORY)
    return isinstance(failure, MemoryError) or (isinstance(failure, (RuntimeError, OSError, ImportError)) and told)
