"""A progress bar on stderr, with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rebasin_cli.safe_text import LONGEST_NAME, one_line


@contextmanager
def progress_bar(title: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
    """A bar for a stretch of work, which goes when it ends.

    Args:
        total: in bytes (`unit`) or steps; None if it cannot be known.

    Yields a function that is called with how much was done.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=24)]
    if total is not None:
        columns += [DownloadColumn() if unit == "bytes" else MofNCompleteColumn(), TimeRemainingColumn()]
    else:
        columns += [TextColumn("{task.completed:.0f} " + unit), TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(one_line(title, LONGEST_NAME), total=total)
        yield lambda amount: progress.advance(task, amount)
