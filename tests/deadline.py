"""An end to tests of what once took for ever."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class LateError(Exception):
    """The deadline has passed."""


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """Raise in the block when it takes longer than that: a generous bound against hanging, and no measurement."""

    def late(number: int, frame: FrameType | None) -> None:
        raise LateError(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
