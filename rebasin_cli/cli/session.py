"""What a user sees of a run: progress and warnings meanwhile, the summary or the document at the end.

And what the program was called with: the command line and every option that counts, for the run document.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import typer

from rebasin_cli import process
from rebasin_cli.cli.streams import console, is_terminal, need_stdout, print_note, print_payload, print_warning
from rebasin_cli.pipeline import Advance, Progress
from rebasin_cli.report.document import InvocationRecord, Option, RunDocument

if TYPE_CHECKING:
    from rebasin_cli.report.bars import Bars


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
    from rebasin_cli.pipeline.record import machine

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
        option = _plain(values.get(name))
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


Form = Literal["auto", "text", "json"]


class Session(Progress):
    """Progress on the command line.

    Attributes:
        form: how the result is printed; asked: whether the user said so.
    """

    def __init__(
        self,
        *,
        form: Form = "auto",
        quiet: bool = False,
        verbose: bool = False,
        shows: bool = False,
        feeds: bool = False,
        written: bool = False,
    ) -> None:
        """Choose what is printed.

        Args:
            form: of the result; auto: text for people, and the document in a pipe where the command feeds others.
            shows: what the command prints is all that it does.
            feeds: the run document is what the next command works on.
            written: the result has a place of its own, so that it goes through a pipe only if asked for.

        Raises:
            SystemFailure: it would print to a stdout that is closed.
        """
        super().__init__()
        if form == "json" or shows:
            need_stdout()
        self.quiet, self.verbose, self._written = quiet, verbose, written
        self.form: Form = "json" if form == "auto" and feeds and sys.stdout and not sys.stdout.isatty() else form
        self.asked = form != "auto"
        self._bars: Bars | None = None

    def invocations(self) -> tuple[InvocationRecord, ...]:
        return current()

    def show_warning(self, text: str) -> None:
        if not self.quiet:
            print_warning(text)

    def remark(self, text: str) -> None:
        if not self.quiet:
            print_note(text)

    def judged(self, text: str, *, bad: bool) -> None:
        """Not now where the summary on a terminal says it in its first lines; a bad one stands in the document."""
        if self.form == "json" or sys.stdout is None or not sys.stdout.isatty():
            super().judged(text, bad=bad)
        elif bad and text not in self.warnings:
            self.warnings.append(text)

    def detail(self, text: str) -> None:
        if self.verbose and not self.quiet:
            print_note(text)

    def reached(self, what: str, value: float) -> None:
        if self._bars is not None:
            self._bars.reached(what, value)

    @contextmanager
    def phase(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        """A progress bar with what was reached and the time left, on a terminal only."""
        if self.quiet or not is_terminal(sys.stderr):
            yield lambda amount: None
            return
        if self._bars is not None:  # within another phase
            with self._bars.phase(title, total, unit) as advance:
                yield advance
            return
        process.end_waiting()
        from rebasin_cli.report.bars import Bars

        with Bars(console(sys.stderr)) as self._bars:
            try:
                with self._bars.phase(title, total, unit) as advance:
                    yield advance
            finally:
                self._bars = None
        process.show_waiting_again()

    def finish(self, document: RunDocument, *, payload: bool = True) -> None:
        """Print the result, unless stdout is taken or closed, or the result was to go elsewhere.

        A plan is always printed: nothing else is, wherever `-o` would go.
        """
        if not (payload or document.plan) or sys.stdout is None:
            return
        if self._written and not self.asked and document.plan is None and not sys.stdout.isatty():
            return
        if self.form == "json":
            from rebasin_cli.report.codec import to_json

            print_payload(to_json(document))
            return
        from rebasin_cli.cli.next_step import next_command
        from rebasin_cli.report.console import print_summary

        process.end_waiting()
        print_summary(
            console(sys.stdout), document, verbose=self.verbose,
            document_file=str(self.document_file or ""), then=next_command(document, self.document_file),
        )  # fmt: skip
