"""Progress bars: what is done, how far it is, what it has come to, and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rebasin_cli.report.figures import measure_text
from rebasin_cli.safe_text import LONGEST_NAME, one_line

Advance = Callable[[int], None]
"""Called with how much was done."""

_BAR = 24  # columns


class Bars:
    """The bars of a stretch of work, and of what is done within it; they go when it is over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=_BAR),
            _Done(),
            TextColumn("{task.fields[reached]}", markup=False),
            _Time(),
            console=console,
            transient=True,
        )
        self._tasks: list[TaskID] = []

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @contextmanager
    def phase(self, title: str, total: int | None, unit: str) -> Iterator[Advance]:
        """A bar; without a total it goes to and fro."""
        task = self._progress.add_task(one_line(title, LONGEST_NAME), total=total, unit=unit, reached="")
        self._tasks.append(task)
        try:
            yield lambda amount: self._progress.advance(task, amount)
            self._progress.refresh()
        finally:
            self._tasks.remove(task)
            self._progress.remove_task(task)

    def reached(self, what: str, value: float) -> None:
        """Say what the innermost phase has come to: `objective 1.234`."""
        if self._tasks:
            self._progress.update(self._tasks[-1], reached=f"{what} {measure_text(value)}")


class _Done(ProgressColumn):
    """`3/9 steps`, or bytes with their rate."""

    _bytes, _steps = DownloadColumn(), MofNCompleteColumn()

    def render(self, task: Task) -> Text:
        unit = str(task.fields["unit"])
        if task.total is None:
            return Text(f"{task.completed:.0f} {unit}" if unit else "", "progress.percentage")
        return self._bytes.render(task) if unit == "bytes" else self._steps.render(task)


class _Time(ProgressColumn):
    """The time left, or that has passed where nothing tells it."""

    _left, _passed = TimeRemainingColumn(), TimeElapsedColumn()

    def render(self, task: Task) -> Text:
        if task.total is None:
            return self._passed.render(task)
        return self._left.render(task).append(" left", "progress.remaining")
