"""What holds for every call: its keywords are checked, it is silent, and it speaks of keywords instead of options."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from rebasin_cli.api.keywords import check_keywords, choices, parameters_of
from rebasin_cli.errors import RebasinError
from rebasin_cli.pipeline import Advance, Progress
from rebasin_cli.safe_text import block

P = ParamSpec("P")
R = TypeVar("R")

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OPTION = re.compile(r"`rebasin [^`]*`|(?<![\w`/-])--([a-z]+(?:-[a-z]+)*)(?: ([\w.|-]+(?::[\w.|-]+)*))?|(?<!\S)-o\b")
_METAVAR = re.compile(r"[A-Z][A-Z:|]*|\d+")
_OTHER_NAMES = {"arch": "spec", "no_align": "align=False", "force": "force=True", "max_barrier": "barrier"}


class RebasinWarning(UserWarning):
    """What a reader of the figures must know; it is in the run document, too."""


def public(keywords: type | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that users call, or a method of a result.

    Args:
        keywords: the typed dict of its options, from which `help()` and completion get their names and defaults.
    """

    def made(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if keywords is not None:
                own = inspect.signature(function).parameters
                given = {name: value for name, value in kwargs.items() if name not in own}
                check_keywords(function.__name__, keywords, given, own)
            importlib.import_module("torch")  # plainly: `load_torch` is for a process that is ours
            with _in_keywords(), _same_threads(kwargs.get("threads")):
                return function(*args, **kwargs)

        if keywords is not None:
            signature = inspect.signature(function)
            plain = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
            whole = signature.replace(parameters=[*plain, *parameters_of(keywords)])
            call.__signature__ = whole  # type: ignore[attr-defined]
        return call

    return made


class Talk(Progress):
    """Warnings through Python's own, and bars if they are asked for."""

    def __init__(self, *, bars: bool = False) -> None:
        super().__init__()
        self._bars = bars

    def show_warning(self, text: str) -> None:
        warnings.warn(block(as_keywords(text)), RebasinWarning, stacklevel=_frames_of_ours())

    @contextmanager
    def phase(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        if not self._bars:
            yield lambda amount: None
            return
        from rich.console import Console

        from rebasin_cli.report.bars import Bars

        with Bars(Console(stderr=True)) as bars, bars.phase(title, total, unit) as advance:
            yield advance


def as_keywords(text: str) -> str:
    """A message with keywords in the place of options: `--fit-data FILE` → `fit_data=FILE`. Commands stay."""
    return text if text.startswith("rebasin ") else _OPTION.sub(_keyword, text)


def _keyword(found: re.Match[str]) -> str:
    option, word = found[1], found[2]
    if found[0].startswith("`"):
        return found[0]
    if option is None:
        return "path"
    given = option.replace("-", "_")
    name = _OTHER_NAMES.get(given, given)
    if given not in _OTHER_NAMES and name not in choices():
        return found[0]
    if word is None:
        return name
    if word in choices().get(name, ()):
        return f"{name}={word!r}"
    return f"{name}={word}" if _METAVAR.fullmatch(word) else f"{name} {word}"


@contextmanager
def _in_keywords() -> Iterator[None]:
    try:
        yield
    except RebasinError as error:
        error.what, error.where, error.remedy = map(as_keywords, (error.what, error.where, error.remedy))
        error.args = (error.what,)
        raise


@contextmanager
def _same_threads(wanted: object) -> Iterator[None]:
    """`threads=` holds for the call alone."""
    if wanted is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _frames_of_ours() -> int:
    """The `stacklevel` of whoever called us, so that a warning names a line of theirs."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    return level


def _is_ours(file: str) -> bool:
    return file.startswith(_HERE) or os.path.basename(file) == "contextlib.py"
