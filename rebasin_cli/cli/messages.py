"""Errors, warnings and notes on stderr, all in one form; the one place that writes text to stderr."""

from __future__ import annotations

import re
import sys
import traceback
from contextlib import suppress
from typing import Any

from rebasin_cli import waiting
from rebasin_cli.cli.terminal import console, in_colours
from rebasin_cli.errors import RebasinError
from rebasin_cli.safe_text import block, in_ascii, printable, wrapped

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
    from rebasin_cli.spec.hints import did_you_mean

    option = getattr(failure, "option_name", None)
    if command is not None and option and "No such option" in text:
        known = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
        return f"there is no option `{option}`", did_you_mean(option, [*known, "--help"])
    if command is not None and (found := _COMMAND.match(text)):
        return f"there is no command `{found[1]}`", did_you_mean(found[1], getattr(command, "commands", ()))
    what = (text[:1].lower() + text[1:]).rstrip(".").replace("Value error, ", "")
    choice = _CHOICE.search(text)
    return what, did_you_mean(choice["given"], re.findall("'([^']*)'", choice["choices"])) if choice else ""
