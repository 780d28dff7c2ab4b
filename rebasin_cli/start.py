"""Where the program starts: what has to hold before anything large is imported, and when everything has been told.

Signals end the process at once until the work begins. The descriptors 0, 1 and 2 are never given to a file of ours, or
what libraries print there would land in it. Variables that libraries would fail on are dropped. At the end no stream
that cannot be written changes the exit code.
"""

from __future__ import annotations

import os
import sys
import warnings
from io import TextIOWrapper

if os.name != "posix":  # nor could what follows be imported: outputs are locked and signals told apart as Unix does
    sys.exit("error: rebasin runs on Linux and macOS\n  try:   on Windows run it in WSL")

from rebasin_cli import process

_SYSTEM = 4
_WIDTHS = ("COLUMNS", "LINES", "TERMINAL_WIDTH")  # rich and typer make numbers of them
_WIDEST = 100_000


def main() -> int:
    """Run the program as a process of its own and return its exit code."""
    _keep_descriptors()
    process.exit_on_signals()
    process.show_waiting(sys.argv[1:])
    _settle_surroundings()
    try:
        from rebasin_cli.cli import main as run

        code = run()
    except (ImportError, MemoryError, OSError) as failure:  # `run` tells all others
        process.end_waiting()
        print(f"error: rebasin cannot be loaded: {failure}", file=sys.stderr)
        print("  try:   look at the limits of the process (ulimit -a), or install it again", file=sys.stderr)
        code = _SYSTEM
    return _finish(code)


def _keep_descriptors() -> None:
    """Open those of 0, 1 and 2 that are closed; `sys.stdin` and `sys.stdout` stay None, by which that is told."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
            os.set_inheritable(descriptor, True)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _settle_surroundings() -> None:
    for name in _WIDTHS:
        value = os.environ.get(name, "1")
        if not (value.isascii() and value.isdecimal() and len(value) < 9 and 1 <= int(value) <= _WIDEST):
            del os.environ[name]
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # help has letters that not every locale has
    if any(option.startswith("error") for option in sys.warnoptions):
        warnings.simplefilter("default")  # a warning of a library is no failure of ours


def _finish(code: int) -> int:
    """Empty the streams, or point them at nothing: what is left in them would make the interpreter end with 120."""
    process.ignore_signals()
    process.end_waiting()
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as failure:
            if descriptor == 1 and code == 0:
                code = process.CLOSED_PIPE if isinstance(failure, BrokenPipeError) else _SYSTEM
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, descriptor)
            os.close(nothing)
    return code
