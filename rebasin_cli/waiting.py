"""A line on the terminal while the program is loaded, so that a command that takes longer shows at once that it works.

Whatever writes to the terminal afterwards takes the line away first. Nothing is imported for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

_WORKING = {"align", "interpolate", "merge", "apply", "repair", "inspect", "rerun"}
_OF_ARCH = {"list", "show", "check", "prove"}
_DOCUMENT = {"--json", "json", "--format=json"}
_SILENT = {"--help", "--quiet", "--version"}

_TAKE_AWAY = b"\r\x1b[K"
_shown = False
_line = b""


def begin(arguments: Sequence[str]) -> None:
    """Show the line, if stderr is a terminal and the command is one that works and may talk.

    A terminal that gets a document (`--json`, `--format json`) gets nothing else.
    """
    global _shown, _line
    if _works(arguments) and _is_terminal() and not (_DOCUMENT & {*arguments} and os.isatty(1)):
        _shown = _write(f"rebasin {arguments[0]}: loading ...".encode())
        _line = f"rebasin {arguments[0]}: working ...".encode()


def resume() -> None:
    """Show a line between two stretches of work that have a progress bar."""
    global _shown
    if _line and not _shown:
        _shown = _write(_line)


def end() -> None:
    """Take the line away, if it is there."""
    global _shown
    if _shown:
        _shown = False
        _write(_TAKE_AWAY)


def _works(arguments: Sequence[str]) -> bool:
    if len(arguments) < 2 or any(map(_silences, arguments)):
        return False
    return arguments[0] in _WORKING or (arguments[0] == "arch" and arguments[1] in _OF_ARCH)


def _silences(word: str) -> bool:
    """`--quiet`, `-q`, `-fq`."""
    return word in _SILENT or (word[:1] == "-" != word[1:2] and bool({*"qh"} & {*word}))


def _is_terminal() -> bool:
    return "_REBASIN_COMPLETE" not in os.environ and os.environ.get("TERM") != "dumb" and os.isatty(2)


def _write(data: bytes) -> bool:
    with suppress(OSError):  # nobody looks any more
        if sys.stderr is not None:
            sys.stderr.flush()
        os.write(2, data)
        return True
    return False
