"""The values of options: words to choose from and what each means, numbers with their range, names of files, pairs.

Numbers have a parser of our own, as those of the libraries below let `nan` through every range, and numbers that
overflow later.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import typer

from rebasin_cli.errors import UsageError


class Device(StrEnum):
    """Where similarities and losses are computed."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Method(StrEnum):
    """How units are matched."""

    WEIGHTS = "weights"
    FRANK_WOLFE = "frank-wolfe"
    SINKHORN = "sinkhorn"
    ACTIVATIONS = "activations"
    STE = "ste"


class MergeMethod(StrEnum):
    """How units of several models are matched; what goes by the loss between two is not among them."""

    WEIGHTS = "weights"
    FRANK_WOLFE = "frank-wolfe"
    SINKHORN = "sinkhorn"
    ACTIVATIONS = "activations"


class Symmetry(StrEnum):
    """What may be done to units beside permuting them."""

    PERMUTATIONS = "permutations"
    SIGNS = "signs"
    SCALES = "scales"
    ROTATIONS = "rotations"
    ALL = "all"


class ObjectiveName(StrEnum):
    """What Sinkhorn re-basin goes down."""

    DISTANCE = "distance"
    MIDPOINT = "midpoint"
    RANDOM = "random"


class Likeness(StrEnum):
    """What activations have in common."""

    CORRELATION = "correlation"
    COVARIANCE = "covariance"


class Start(StrEnum):
    """Where matching begins."""

    ANCHORED = "anchored"
    IDENTITY = "identity"


class Order(StrEnum):
    """The order of the steps of a sweep."""

    FORWARD = "forward"
    RANDOM = "random"


class Quality(StrEnum):
    """How much time to spend on a better optimum."""

    FAST = "fast"
    DEFAULT = "default"
    HIGH = "high"


class OnInterrupt(StrEnum):
    """What Ctrl-C does while matching."""

    ABORT = "abort"
    SAVE = "save"


class SplitName(StrEnum):
    """Which half of the data."""

    TRAIN = "train"
    TEST = "test"


class Polish(StrEnum):
    """How the weights of a merge are fitted to its models."""

    LEAST_SQUARES = "least-squares"
    DISTILL = "distill"


class Repair(StrEnum):
    """What is done to the statistics of merged networks."""

    NONE = "none"
    BN = "bn"
    REPAIR = "repair"


class Form(StrEnum):
    """How a result is printed."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class Colours(StrEnum):
    """Whether text is coloured."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Algorithm(StrEnum):
    """How N models are brought together."""

    CYCLE_CONSISTENT = "cycle-consistent"
    FRANK_WOLFE = "frank-wolfe"
    MERGE_MANY = "merge-many"
    TO_FIRST = "to-first"
    HIERARCHICAL = "hierarchical"


class Combine(StrEnum):
    """What lies between two tensors."""

    LERP = "lerp"
    SLERP = "slerp"


_METHODS = {
    "weights": "descent on the weights",
    "frank-wolfe": "all dims at once, on the weights",
    "sinkhorn": "by gradients",
    "activations": "by what units answer to examples",
    "ste": "straight-through, by the loss at the midpoint",
}

MEANINGS: Mapping[type[StrEnum], Mapping[str, str]] = {
    Device: {"auto": "a GPU where the work is worth it"},
    Method: _METHODS,
    MergeMethod: _METHODS,
    Symmetry: {
        "permutations": "they change places", "signs": "their signs are turned, too, where the spec allows it",
        "scales": "they are scaled, too", "rotations": "they are mapped together, too", "all": "all of these",
    },
    ObjectiveName: {
        "distance": "of the weights", "midpoint": "the loss halfway", "random": "the loss at a random λ",
    },
    Likeness: {"correlation": "whatever their size", "covariance": "large ones count more"},
    Start: {"anchored": "outwards from what never moves", "identity": "as in the paper"},
    Order: {"forward": "as the spec has them", "random": "as in the paper"},
    Quality: {
        "fast": "one descent", "default": "Frank-Wolfe beside it where that is cheap",
        "high": "several starts, the best kept",
    },
    OnInterrupt: {"abort": "nothing is written", "save": "the best so far is"},
    Polish: {"least-squares": "layer by layer", "distill": "and then by gradients"},
    Repair: {"bn": "BatchNorm statistics are recomputed", "repair": "all channels are rescaled"},
    Form: {
        "auto": "text, and json where the command feeds a pipe", "text": "for people", "json": "the run document",
    },
    Colours: {"auto": "on a terminal, unless NO_COLOR or FORCE_COLOR say otherwise"},
    Algorithm: {
        "cycle-consistent": "all pairs at once, by descent", "frank-wolfe": "the same by Frank-Wolfe",
        "merge-many": "each to the mean of the others", "to-first": "each onto the first",
        "hierarchical": "pairs, then pairs of pairs",
    },
    Combine: {"lerp": "along the straight line", "slerp": "along each tensor's arc"},
}  # fmt: skip
"""What each word means, for `--help`; those that say it themselves have none."""


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
        raise typer.BadParameter(f"{_quoted(given)} is not {self}")

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
        raise typer.BadParameter(f"{_quoted(given)} is not {self}")

    def __str__(self) -> str:
        return self.words or f"a number from {self.least:g} to {self.most:g}"


def _quoted(text: str) -> str:
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
