"""Terminals: what counts as one, whether it shows colours, and rich's console for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import TYPE_CHECKING, TextIO

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
