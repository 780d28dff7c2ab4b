"""Ending a match early with the best it has: after a time (`--time-budget`), or on Ctrl-C (`--on-interrupt save`)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

from rebasin_cli.matching.result import StopMatching


@contextmanager
def stopping(budget: float | None, *, save: bool) -> Iterator[Callable[[], None]]:
    """Yields a function to call now and then, which raises `StopMatching` when it is time to stop.

    Args:
        budget: seconds from now.
        save: take the first Ctrl-C as the wish to stop; the second one interrupts as always.
    """
    deadline = None if budget is None else monotonic() + budget
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    def check() -> None:
        if interrupted:
            raise StopMatching("interrupted")
        if deadline is not None and monotonic() >= deadline:
            raise StopMatching("time")

    before = None
    if save:
        try:
            before = signal.signal(signal.SIGINT, interrupt)
        except ValueError:  # not the main thread, which alone receives signals
            save = False
    try:
        yield check
    finally:
        if save:
            signal.signal(signal.SIGINT, before)
