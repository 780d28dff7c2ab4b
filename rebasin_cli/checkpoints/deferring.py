"""Signals deferred for a moment, so that renames with their cleanup, and the import of torch, are not interrupted."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rebasin_cli.garbage import collection_paused

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer every signal that Python turns into an exception until the block has ended.

    Handlers are exchanged, as a mask of this thread would not keep the signal from the threads of torch. What has the
    system's own action (a plain kill) is left alone. Does nothing outside the main thread, which alone gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.getsignal(number) for number in _ENDING if callable(signal.getsignal(number))}
    try:
        for number in before:
            signal.signal(number, remember)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in dict.fromkeys(came):
            signal.raise_signal(one)


def load_torch() -> None:
    """Import torch, which what follows needs.

    A signal meanwhile counts afterwards: libraries swallow exceptions that come while they are imported, or fail later.
    """
    if "torch" not in sys.modules:
        with collection_paused(), signals_deferred():
            import torch  # noqa: F401

            gc.freeze()  # the first look at it afterwards would take as long as matching small networks
