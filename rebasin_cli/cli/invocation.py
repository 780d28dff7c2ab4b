"""What the program was called with: the command line and every option that counts, for the run document."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import Any

import typer

from rebasin_cli.report.document import InvocationRecord, Option


@dataclass(frozen=True, slots=True)
class _Invocation:
    context: typer.Context
    started: datetime
    clock: float


_current: ContextVar[_Invocation | None] = ContextVar("invocation", default=None)


def begin(context: typer.Context) -> None:
    """Remember the command that is called, and when."""
    _current.set(_Invocation(context, datetime.now(UTC), monotonic()))


def current() -> tuple[InvocationRecord, ...]:
    """The command that was called last, as the document keeps it; none outside of the program."""
    found = _current.get()
    if found is None:
        return ()
    from rebasin_cli.pipeline.versions import machine

    record = InvocationRecord(
        command_line=("rebasin", *(found.context.find_root().obj or ())),
        options=_options(found.context),
        started=found.started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        seconds=round(monotonic() - found.clock, 3),
        machine=machine(),
        folder=str(Path.cwd()),
    )
    return (record,)


def _options(context: typer.Context) -> dict[str, Option]:
    """Options and arguments by the names that `--help` has for them.

    What a method reads has the method's own default, and of other methods' options nothing is said.
    """
    from rebasin_cli.pipeline.method_choice import effective_options

    values = effective_options(context.params)
    found = {}
    for parameter in context.command.params:
        name = parameter.name or ""
        shown = getattr(parameter, "show_default", None)
        default = shown if isinstance(shown, str) and name in values else None
        value = values.get(name)
        option = _plain(default if value is None else value)
        if option not in (None, ()) and not getattr(parameter, "is_eager", False):
            is_option = parameter.param_type_name == "option"
            found[parameter.opts[0] if is_option else getattr(parameter, "metavar", None) or name] = option
    return found


def _plain(value: Any) -> Option | None:
    """A value as JSON has it."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, (list, tuple)):
        return tuple(str(_plain(item)) for item in value)
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
