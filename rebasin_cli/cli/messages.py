"""Errors, warnings and notes on stderr, all in one form; the one place that writes text to stderr."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress

from rebasin_cli import waiting
from rebasin_cli.errors import RebasinError
from rebasin_cli.safe_text import block, printable

_RED, _YELLOW, _DIM = "1;31", "1;33", "2"
_LONGEST_TRACEBACK = 16_000  # characters; a deep recursion is told by its ends


def print_error(error: RebasinError) -> None:
    """What, where, and what to do next."""
    print_error_parts(error.what, error.where, error.remedy)


def print_error_parts(what: str, where: str = "", remedy: str = "") -> None:
    """`error: …`, `  where: …`, `  try:   …`; a part that is empty is left out."""
    lines = [f"{_painted('error:', _RED)} {block(what)}"]
    if where:
        lines.append(f"  where: {block(where)}")
    if remedy:
        lines.append(f"  try:   {block(remedy)}")
    _say("\n".join(lines))


def print_warning(text: str) -> None:
    """Something that whoever reads the result must know."""
    _say(f"{_painted('warning:', _YELLOW)} {block(text)}")


def print_note(text: str) -> None:
    """Something worth saying that changes no figure."""
    _say(f"{_painted('note:', _DIM)} {block(text)}")


def print_traceback() -> None:
    """Where the exception that is handled came from, for `--debug`; indented, as its text may have lines of its own."""
    lines = printable(traceback.format_exc(), _LONGEST_TRACEBACK).rstrip().split("\n")
    _say("\n".join(f"    {line}" for line in lines))


def _painted(word: str, colour: str) -> str:
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        return f"\x1b[{colour}m{word}\x1b[0m"
    return word


def _say(text: str) -> None:
    waiting.end()
    with suppress(OSError):  # nobody listens to stderr any more; the exit code still tells
        print(text, file=sys.stderr, flush=True)
