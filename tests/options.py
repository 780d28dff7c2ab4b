"""The page of all options, made from the commands themselves: `python -m tests.options` writes it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from typer.main import get_command

from rebasin_cli.cli import program

PAGE = Path(__file__).parent.parent / "docs" / "options.md"
_DEFAULT = re.compile(r"\s*\\?\[default: ([^\]]+)\]")
"""How a help text ends whose default typer does not know."""

HEAD = """# Options

Written by `python -m tests.options` from the commands themselves; `rebasin COMMAND --help` shows the same.
"""


def page() -> str:
    """The whole page: a section for each command, its arguments and its options by group."""
    return HEAD + "".join(_section(name, command) for name, command in _commands("rebasin", get_command(program())))


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from _commands(f"{name} {word}", inner)


def _section(name: str, command: Any) -> str:
    about = inspect.cleandoc(command.help or "").split("\f")[0].strip()
    lines = ["", f"## `{name}`", "", about.split("\n\n")[0], "", "| | value | default | what |", "|---|---|---|---|"]
    parameters = [p for p in command.params if "--help" not in p.opts and not getattr(p, "hidden", False)]
    for parameter in parameters:
        names = ", ".join(f"`{o}`" for o in (*parameter.opts, *parameter.secondary_opts))
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.human_readable_name}`"
        text, told = _DEFAULT.sub("", parameter.help or ""), _DEFAULT.search(parameter.help or "")
        default = f"`{told[1]}`" if told else _default(parameter)
        lines.append(f"| {names} | {_value(parameter)} | {default} | {_cell(text)} |")
    return "\n".join(lines) + "\n"


def _value(parameter: Any) -> str:
    if parameter.param_type_name == "argument" or parameter.is_flag:
        return ""
    kind = parameter.type_descriptor.annotation
    kind = (get_args(kind) or (kind,))[0]  # of a list what is in it
    choices = [member.value for member in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []
    text = parameter.metavar or ", ".join(choices)
    return _cell(f"`{text}`") if text else ""


def _default(parameter: Any) -> str:
    if isinstance(shown := getattr(parameter, "show_default", None), str):
        return f"`{shown}`"
    value = parameter.default
    if value is None or value is False or callable(value) or value == () or type(value).__name__ == "Sentinel":
        return ""
    return f"`{_word(value)}`" if not isinstance(value, bool) else ""


def _word(value: Any) -> str:
    return str(getattr(value, "value", value))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
