"""The values of options: numbers with the range of each, names of files, pairs, and numbers inside a text.

Numbers have a parser of our own, as those of the libraries below let `nan` through every range, and numbers that
overflow later.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import typer

from rebasin_cli.errors import UsageError

Number = TypeVar("Number", int, float)

_DIGITS = 40  # of a number that is read at all: far more than any range here has
_SHOWN = 24  # characters of what was given, in a message


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `least` to `most`, in plain digits; calling it reads one."""

    least: int = 1
    most: int = 10**9

    def __call__(self, text: str | int) -> int:
        """Read a number.

        Raises:
            typer.BadParameter: it is another text, or out of range.
        """
        given = str(text).strip()
        if len(given) <= _DIGITS and re.fullmatch(r"[+-]?[0-9]+", given) and self.least <= int(given) <= self.most:
            return int(given)
        raise typer.BadParameter(f"{shortened(given)} is not {self}")

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.most}"


@dataclass(frozen=True, slots=True)
class Real:
    """A number from `least` to `most`, plain or as 1e-3; calling it reads one. `words` say the range, if given."""

    least: float
    most: float
    words: str = ""

    def __call__(self, text: str | float) -> float:
        """Read a number.

        Raises:
            typer.BadParameter: it is another text (`nan`, `inf`), or out of range.
        """
        given = str(text).strip()
        written = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", given, re.IGNORECASE)
        if len(given) <= _DIGITS and written and self.least <= float(given) <= self.most:
            return float(given)
        raise typer.BadParameter(f"{shortened(given)} is not {self}")

    def __str__(self) -> str:
        return self.words or f"a number from {self.least:g} to {self.most:g}"


def shortened(text: str) -> str:
    """What was given, for a message."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


SEED = Whole(0, 2**53 - 1)  # which every reader of a run document keeps exactly
COUNT = Whole()
SIZE = Whole()  # of a dim (--set)
THREADS = Whole(1, 1024)
STEPS = Whole(2, 100_000)
STEPS_OF_PLANE = Whole(2, 1000)
STEPS_BETWEEN = Whole(3, 100_000)
TOKENS = Whole(2, 10**6)
PIXELS = Whole(1, 10_000)
LAMBDA = Real(0, 1)
MARGIN = Real(0, 10)
MOMENTUM = Real(0, 1)
LEARNING_RATE = Real(0, 1000)
SECONDS = Real(0.001, 10**9)
BARRIER = Real(-(10**9), 10**9)
WEIGHT = Real(5e-324, sys.float_info.max, "a finite number above zero")  # of a model; shares of them do not overflow


def file_path(text: str | Path) -> Path:
    """Read the name of a file for an option that knows no stdout, and would make a file called `-`.

    Raises:
        typer.BadParameter: for `-`.
    """
    if str(text) == "-":
        raise typer.BadParameter("`-` is stdout, and this is written to a file")
    return Path(text)


def plot_path(text: str | Path) -> Path:
    """Read the name of a picture, whose suffix says its form.

    Raises:
        typer.BadParameter: for `-`.
        UsageError: for another suffix than those of pictures.
    """
    from rebasin_cli.report.png import form_of

    path = file_path(text)
    form_of(path)
    return path


def pairs(option: str, values: Sequence[str] | None) -> dict[str, str]:
    """`["a=1", "b=x"]` as a dict.

    Raises:
        UsageError: one without `=`, or a name given twice.
    """
    found: dict[str, str] = {}
    for text in values or ():
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise UsageError(f"{option} {text}: expected NAME=VALUE", remedy=f"for example {option} name=value")
        if name in found:
            raise UsageError(f"{option} {name} is given twice: {found[name]} and {value}", remedy="keep one of the two")
        found[name] = value
    return found


def number(read: Callable[[str], Number], text: str, *, option: str, example: str) -> Number:
    """A number that is a part of an option's value.

    Raises:
        UsageError: as `read` says.
    """
    try:
        return read(text)
    except typer.BadParameter as error:
        raise UsageError(f"{option}: {error.message}", remedy=f"for example {example}") from None
