"""Ending a match early with the best it has: after a time (`--time-budget`), or on Ctrl-C (`--on-interrupt save`)."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

from rebasin_cli.errors import UsageError
from rebasin_cli.matching.result import StopMatching

_LONGEST = 1e9  # seconds
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """`90`, `90s`, `10m` or `1.5h` in seconds.

    Raises:
        UsageError: anything else, or no time at all.
    """
    found = re.fullmatch(r"([0-9]{1,30}(?:\.[0-9]{1,30})?)(s|m|h)?", text.strip())
    seconds = float(found[1]) * _SECONDS[found[2] or ""] if found else 0.0
    if not 0 < seconds <= _LONGEST:
        raise UsageError(
            f"--time-budget {text[:24]!r} is no time from 0 to {_LONGEST / 3600:.0f}h",
            remedy="--time-budget 90s, 10m or 1.5h",
        )
    return seconds


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
