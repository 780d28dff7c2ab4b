"""What SIGINT, SIGTERM and SIGHUP do, at each stage of a run.

While modules are imported nothing has been written yet, and a signal ends the process at once: an exception might be
swallowed by whichever library is being imported, or come out as its failure. Later a signal is an exception, so that
temporary files are taken away; torch, which is imported then, is waited for (`load_torch`). What is ignored, as SIGHUP
is under nohup, stays so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rebasin_cli import waiting

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal was closed"}


class Ended(BaseException):
    """SIGTERM or SIGHUP, as an exception.

    Attributes:
        code: the exit code; word: what to say.
    """

    def __init__(self, number: int) -> None:
        self.code, self.word = 128 + number, WORDS[signal.Signals(number)]


def exit_at_once() -> None:
    """Have signals end the process at once, with one line on stderr and the code of the signal."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _exit)


def ignore() -> None:
    """Nothing is left to break off: the exit code is settled."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def are_settled() -> bool:
    """Whether signals end the process at once now."""
    return any(signal.getsignal(number) == _exit for number in ENDING)


@contextmanager
def raising() -> Iterator[None]:
    """Turn signals into exceptions inside the block; does nothing outside the main thread."""
    numbers = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    ended = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        if not ended:  # a second one must not break off the cleaning up after the first
            ended = True
            raise Ended(number)

    before = {}
    try:
        for number in numbers:
            handler = signal.default_int_handler if number == signal.SIGINT else end
            before[number] = signal.signal(number, handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _exit(number: int, frame: FrameType | None) -> None:
    waiting.end()
    with suppress(OSError):
        os.write(2, f"error: {WORDS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)
