"""Errors, warnings and notes on stderr, all in one form; the one place that writes text to stderr.

And terminals: what counts as one, whether it shows colours, and rich's console for it.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TextIO

from rebasin_cli import waiting
from rebasin_cli.errors import RebasinError
from rebasin_cli.safe_text import block, in_ascii, printable, wrapped

if TYPE_CHECKING:
    from rich.console import Console


_VARIABLES = ("NO_COLOR", "FORCE_COLOR")
_CHOICES = {"always": ("FORCE_COLOR", "1"), "never": ("NO_COLOR", "1")}


@contextmanager
def colours_as_asked(arguments: Sequence[str]) -> Iterator[None]:
    """Carry out `--color always|never` by NO_COLOR and FORCE_COLOR, which every library here goes by.

    Read from the arguments, as wrong ones are told in colours, too.
    """
    before = {name: os.environ.get(name) for name in _VARIABLES}
    chosen = _CHOICES.get(_asked(arguments))
    if chosen is not None:
        for name in _VARIABLES:
            os.environ.pop(name, None)
        os.environ[chosen[0]] = chosen[1]
    try:
        yield
    finally:
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value
            elif chosen is not None:
                os.environ.pop(name, None)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is one on which lines can be taken back."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def in_colours(stream: TextIO | None) -> bool:
    """Whether text on the stream is coloured: on a terminal, unless NO_COLOR or FORCE_COLOR say otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream)


def console(stream: TextIO) -> Console:
    """Rich's console, without any escapes where there are to be no colours."""
    from rich.console import Console

    if not in_colours(stream):
        return Console(file=stream, color_system=None)
    return Console(file=stream, color_system="auto" if is_terminal(stream) else "standard", force_terminal=True)


def _asked(arguments: Sequence[str]) -> str:
    for word, following in pairwise([*arguments, ""]):
        option, sign, value = word.partition("=")
        if option == "--color":
            return value if sign else following
    return ""


called: ContextVar[tuple[str, ...]] = ContextVar("called", default=())
"""What stands after `rebasin`."""


_RED, _YELLOW, _DIM = "1;31", "1;33", "2"
_LONGEST_TRACEBACK = 16_000  # characters; a deep recursion is told by its ends


def print_error(error: RebasinError) -> None:
    """What, where, and what to do next."""
    print_error_parts(error.what, error.where, error.remedy)


def print_error_parts(what: str, where: str = "", remedy: str = "") -> None:
    """`error: …`, `  where: …`, `  try:   …`; a part that is empty is left out."""
    lines = [_part("error:", what, _RED)]
    if where:
        lines.append(_part("  where:", where))
    if remedy:
        lines.append(_part("  try:  ", remedy))
    _say("\n".join(lines))


def print_warning(text: str) -> None:
    """Something that whoever reads the result must know."""
    _say(_part("warning:", text, _YELLOW))


def print_note(text: str) -> None:
    """Something worth saying that changes no figure."""
    _say(_part("note:", text, _DIM))


def print_traceback() -> None:
    """Where the exception that is handled came from, for `--debug`; indented, as its text may have lines of its own."""
    lines = printable(traceback.format_exc(), _LONGEST_TRACEBACK).rstrip().split("\n")
    _say("\n".join(f"    {line}" for line in lines))


def _part(label: str, text: str, colour: str = "") -> str:
    """A label and its text, wrapped at words on a terminal; a command between backticks stays whole."""
    painted = f"\x1b[{colour}m{label}\x1b[0m" if colour and in_colours(sys.stderr) else label
    text = block(text)
    if not (sys.stderr.encoding or "ascii").lower().startswith("utf"):
        text = in_ascii(text)
    if sys.stderr.isatty():
        text = _wrapped(text, " " * (len(label) + 1))
    return f"{painted} {text}"


def _wrapped(text: str, margin: str) -> str:
    """Lines no longer than the terminal is wide; those that go on from another stand below its text."""
    columns = console(sys.stderr).width
    lines = []
    for number, line in enumerate(text.split("\n")):
        own = line[: len(line) - len(line.lstrip(" -"))] if number else ""
        indent = " " * len(own) if number else margin
        lines.append(own + f"\n{indent}".join(wrapped(line[len(own) :], columns - len(indent))))
    return "\n".join(lines)


def _say(text: str) -> None:
    waiting.end()
    with suppress(OSError):  # nobody listens to stderr any more; the exit code still tells
        print(text, file=sys.stderr, flush=True)


_COMMAND = re.compile(r"No such command '(.*?)'\.")
_CHOICE = re.compile(r"'(?P<given>[^']*)' is not one of (?P<choices>'.*')")


def usage_parts(failure: Exception) -> tuple[str, str, str]:
    """What, where, and what to do next."""
    context = getattr(failure, "ctx", None)
    text = str(failure.format_message() if hasattr(failure, "format_message") else failure)
    path = context.command_path if context is not None else "rebasin"
    what, meant = _meant(failure, text, getattr(context, "command", None))
    return what, path, " ".join(filter(None, (meant, f"`{path} --help` shows the usage")))


def _meant(failure: Exception, text: str, command: Any) -> tuple[str, str]:
    """The mistake, and the words that are nearest to a wrong one."""
    from rebasin_cli.errors import did_you_mean

    option = getattr(failure, "option_name", None)
    if command is not None and option and "No such option" in text:
        known = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
        return f"there is no option `{option}`", did_you_mean(option, [*known, "--help"])
    if command is not None and (found := _COMMAND.match(text)):
        return f"there is no command `{found[1]}`", did_you_mean(found[1], getattr(command, "commands", ()))
    what = (text[:1].lower() + text[1:]).rstrip(".").replace("Value error, ", "")
    choice = _CHOICE.search(text)
    return what, did_you_mean(choice["given"], re.findall("'([^']*)'", choice["choices"])) if choice else ""
