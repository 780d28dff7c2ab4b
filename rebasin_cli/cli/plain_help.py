"""How options look in help: flags without a value, choices with what each means, defaults as they are.

`-h` shows the options of every day, and `--help` all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from enum import StrEnum
from inspect import Parameter, cleandoc
from typing import Annotated, Any, get_args, get_origin

from typer.core import TyperCommand, TyperGroup

from rebasin_cli.cli.choices import MEANINGS

_COLUMN = 17  # letters of a choice that stand beside the option; longer lists stand in the text
_FEW = 14  # options that are shown by `-h` in any case

DAILY = {
    "output", "data", "network", "arch", "method", "quality", "steps", "at", "polish", "repair", "plot", "report",
    "html", "markdown", "into", "trust", "freeze", "force", "inverse", "end", "algorithm", "dry_run", "resume", "help",
}  # fmt: skip
"""The options of every day, by the names of their parameters."""


class _PlainFlags:
    """For a command: flags, `--help` among them, name no kind of value; `-h` hides what is not of every day."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        options = [param for param in params if param.param_type_name == "option"]
        further = [param for param in options if param.name not in DAILY] if len(options) > _FEW else []
        words = ctx.find_root().obj or ()
        for param in params:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""
            if param.param_type_name == "argument" and param.nargs != 1:
                param.bare_type = lambda: "path"  # Typer would say list[Path]
            if param.name == "help" and further:
                param.help = f"-h: the options of every day; --help: all {len(options)}."
        if "-h" in words and "--help" not in words and further:
            for param in options:
                param.hidden, param.rich_help_panel = param in further, None
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
    choices, meanings = _choices(kind)
    if choices and detail.metavar is None:
        together = "|".join(choices)
        whole = len(together) <= _COLUMN
        detail.metavar = together if whole else name.rpartition("_")[2].upper()
        said = [f"{word}: {meanings[word]}" if word in meanings else word for word in choices]
        said = [text for word, text in zip(choices, said, strict=True) if word in meanings or not whole]
        if said:
            detail.help = f"{detail.help} {'; '.join(said)}."
    if isinstance(detail.show_default, str):  # would be in brackets of its own
        detail.help = rf"{detail.help} \[default: {detail.show_default}]"
        detail.show_default = False
    return detail


def _choices(kind: Any) -> tuple[list[str], Mapping[str, str]]:
    """The words that an option of some kind, a list of it or one that may be absent chooses from; what they mean."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return [choice.value for choice in kind], MEANINGS.get(kind, {})
    found = [_choices(part) for part in get_args(kind)]
    return next((one for one in found if one[0]), ([], {}))
