"""How options look in `--help`: a flag without a value, a choice with all of its words whole, a default as it is."""

from __future__ import annotations

from copy import copy
from enum import StrEnum
from inspect import Parameter, cleandoc
from typing import Annotated, Any, get_args, get_origin

from typer.core import TyperCommand, TyperGroup

_COLUMN = 17  # letters of a choice that stand beside the option; longer lists stand in the text


class _PlainFlags:
    """For a command: flags, `--help` among them, name no kind of value."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""
        return params


class PlainCommand(_PlainFlags, TyperCommand):
    """A command."""


class PlainGroup(_PlainFlags, TyperGroup):
    """A command that has commands."""


def paragraphs(docstring: str) -> str:
    """A docstring with every paragraph on one line, as help breaks lines where the terminal ends."""
    return "\n\n".join(" ".join(part.split()) for part in cleandoc(docstring).split("\n\n"))


def plainly(parameter: Parameter) -> Parameter:
    """The parameter of a command as help shows it."""
    if get_origin(parameter.annotation) is not Annotated:
        return parameter
    kind, *details = get_args(parameter.annotation)
    details = [_plain(detail, kind, parameter.name) for detail in details]
    return parameter.replace(annotation=Annotated[(kind, *details)])


def _plain(detail: Any, kind: Any, name: str) -> Any:
    detail = copy(detail)
    choices = [choice.value for choice in _choices(kind)]
    if choices and detail.metavar is None:
        together = "|".join(choices)
        detail.metavar = together if len(together) <= _COLUMN else name.rpartition("_")[2].upper()
        if detail.metavar != together:
            detail.help = f"{detail.help} One of {', '.join(choices[:-1])} and {choices[-1]}."
    if isinstance(detail.show_default, str):  # would be in brackets of its own
        detail.help = rf"{detail.help} \[default: {detail.show_default}]"
        detail.show_default = False
    return detail


def _choices(kind: Any) -> list[StrEnum]:
    """The words that an option of some kind, a list of it or one that may be absent chooses from."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return list(kind)
    return [choice for part in get_args(kind) for choice in _choices(part)]
