"""The values of options: names of files, pairs and numbers inside a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import typer

from rebasin_cli.errors import UsageError

Number = TypeVar("Number", int, float)


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
