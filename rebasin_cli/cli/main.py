"""The program: its commands, its signals, and the exit code of every way in which it can end.

0 done                          4 the system: cannot be read or written, no memory
1 a gate or a check failed     70 a bug of ours
2 usage                       130 interrupted, 143 terminated, 129 the terminal was closed (SIGHUP)
3 contents do not fit         141 the reader of our pipe went away (quietly)
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import typer

import rebasin_cli
from rebasin_cli.cli.commands import align, apply, arch, inspect, interpolate, merge, repair, report
from rebasin_cli.cli.messages import print_error, print_error_parts, print_traceback
from rebasin_cli.cli.streams import ClosedPipe
from rebasin_cli.errors import RebasinError, SystemFailure

CLOSED_PIPE, INTERRUPTED, TERMINATED, BUG = 141, 130, 143, 70

# Typer has its own copy of click by now and used the package before; this is the base of usage errors in both.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="rebasin",
    help="Align, interpolate and judge neural networks: Git Re-Basin weight matching for checkpoint files.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("align")(align.command)
app.command("interpolate")(interpolate.command)
app.command("merge")(merge.command)
app.command("apply")(apply.command)
app.command("repair")(repair.command)
app.command("inspect")(inspect.command)
app.add_typer(arch.app, name="arch")
app.command("report")(report.command)


class _Terminated(BaseException):
    """SIGTERM or SIGHUP, as an exception, so that temporary files are taken away."""

    def __init__(self, number: int) -> None:
        self.code = 128 + number


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rebasin {rebasin_cli.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code; every failure has been told on stderr."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    _wait_quietly()
    try:
        with _terminable():
            code = typer.main.get_command(app).main(args=arguments, prog_name="rebasin", standalone_mode=False)
            sys.stdout.flush()
            if code == INTERRUPTED:  # typer makes an exit code of KeyboardInterrupt, without a word
                print_error_parts("interrupted")
            return code if isinstance(code, int) else 0
    except BaseException as failure:
        if debug and not isinstance(failure, (SystemExit, ClosedPipe)):
            print_traceback()
        return _exit_code(failure)


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
    if isinstance(failure, _Terminated):
        with suppress(OSError):  # the terminal may be gone
            print_error_parts("terminated" if failure.code == TERMINATED else "the terminal was closed")
        return failure.code
    if isinstance(failure, (ClosedPipe, BrokenPipeError)):
        _quiet_stdout()
        return CLOSED_PIPE
    if isinstance(failure, SystemExit):
        return failure.code if isinstance(failure.code, int) else 1
    if _is_out_of_memory(failure):
        print_error_parts("there is not enough memory", remedy="`--dry-run` estimates what a run needs")
        return SystemFailure.exit_code
    if isinstance(failure, OSError):
        place = f": {failure.filename}" if failure.filename else ""
        print_error_parts(
            f"{failure.strerror or failure}{place}", remedy="check the path, its permissions and the disk"
        )
        return SystemFailure.exit_code
    frame = traceback.extract_tb(failure.__traceback__)[-1]
    print_error_parts(
        f"this is a bug in rebasin: {type(failure).__name__}: {failure}",
        where=f"{os.path.basename(frame.filename)}:{frame.lineno}, in {frame.name}",
        remedy="please report it, with the command and what it prints with --debug",
    )
    return BUG


def _tell_usage(failure: Exception) -> int:
    """A usage error of the option parser, in the form of our own."""
    context = getattr(failure, "ctx", None)
    text = failure.format_message() if hasattr(failure, "format_message") else str(failure)
    path = context.command_path if context is not None else "rebasin"
    print_error_parts((text[:1].lower() + text[1:]).rstrip("."), where=path, remedy=f"`{path} --help` shows the usage")
    return 2


def _is_out_of_memory(failure: BaseException) -> bool:
    # torch's own classes are told by name and text: importing torch to ask would be a second or two for nothing.
    return isinstance(failure, MemoryError) or (
        isinstance(failure, RuntimeError)
        and (type(failure).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(failure))
    )


def _quiet_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush has no closed pipe to complain of."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
    except (OSError, ValueError):
        pass


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception for as long as we run; does nothing outside the main thread.

    What is ignored, as SIGHUP is under nohup, stays so.
    """
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    ended = False

    def terminate(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        if not ended:  # a second one must not break off the cleaning up after the first
            ended = True
            raise _Terminated(number)

    try:
        before = {number: signal.signal(number, terminate) for number in numbers}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
