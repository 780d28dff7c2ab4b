"""What the process does around the work: the line shown while it loads, its memory, its signals.

What SIGINT, SIGTERM and SIGHUP do depends on the stage of a run. While modules are imported nothing has been written
yet, and a signal ends the process at once: an exception might be swallowed by whichever library is being imported, or
come out as its failure. Later a signal is an exception, so that temporary files are taken away; torch, which is
imported then, and renames with their cleanup are waited for. What is ignored, as SIGHUP is under nohup, stays so.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from types import FrameType

_WORKING = {"align", "interpolate", "merge", "apply", "repair", "inspect", "rerun"}
_OF_ARCH = {"list", "show", "check", "prove"}
_DOCUMENT = {"--json", "json", "--format=json"}
_SILENT = {"--help", "--quiet", "--version"}

_TAKE_AWAY = b"\r\x1b[K"
_shown = False
_line = b""


def show_waiting(arguments: Sequence[str]) -> None:
    """Show the line, if stderr is a terminal and the command is one that works and may talk.

    A terminal that gets a document (`--json`, `--format json`) gets nothing else.
    """
    global _shown, _line
    if _works(arguments) and _is_terminal() and not (_DOCUMENT & {*arguments} and os.isatty(1)):
        _shown = _write(f"rebasin {arguments[0]}: loading ...".encode())
        _line = f"rebasin {arguments[0]}: working ...".encode()


def show_waiting_again() -> None:
    """Show a line between two stretches of work that have a progress bar."""
    global _shown
    if _line and not _shown:
        _shown = _write(_line)


def end_waiting() -> None:
    """Take the line away, if it is there."""
    global _shown
    if _shown:
        _shown = False
        _write(_TAKE_AWAY)


def _works(arguments: Sequence[str]) -> bool:
    if len(arguments) < 2 or any(map(_silences, arguments)):
        return False
    return arguments[0] in _WORKING or (arguments[0] == "arch" and arguments[1] in _OF_ARCH)


def _silences(word: str) -> bool:
    """`--quiet`, `-q`, `-fq`."""
    return word in _SILENT or (word[:1] == "-" != word[1:2] and bool({*"qh"} & {*word}))


def _is_terminal() -> bool:
    return "_REBASIN_COMPLETE" not in os.environ and os.environ.get("TERM") != "dumb" and os.isatty(2)


def _write(data: bytes) -> bool:
    with suppress(OSError):  # nobody looks any more
        if sys.stderr is not None:
            sys.stderr.flush()
        os.write(2, data)
        return True
    return False


@contextmanager
def collection_paused() -> Iterator[None]:
    """Collect nothing meanwhile: of 100,000 tensors, looking for garbage takes half of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


_M_MMAP_THRESHOLD = -3
_THRESHOLD = 1 << 22


@lru_cache(maxsize=1)
def give_freed_memory_back() -> bool:
    """Let glibc map blocks of 4 MiB and more on their own, so that they go back to the system when they are freed.

    Its threshold otherwise grows to 32 MiB with use, and tensors below that stay in a heap with holes: aligning two
    1 GiB files of 16 MiB tensors took 1.4 GB resident with it and 0.65 GB without.

    Returns:
        Whether glibc is there.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _THRESHOLD))
    except (OSError, AttributeError):
        return False


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

    before = {number: signal.getsignal(number) for number in ENDING if callable(signal.getsignal(number))}
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
            import_module("torch")  # by name: what else is here has nothing to do with tensors

            gc.freeze()  # the first look at it afterwards would take as long as matching small networks


CLOSED_PIPE, INTERRUPTED = 141, 130
"""Exit codes, as shells have them."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal was closed"}


class Ended(BaseException):
    """SIGTERM or SIGHUP, as an exception.

    Attributes:
        code: the exit code; word: what to say.
    """

    def __init__(self, number: int) -> None:
        self.code, self.word = 128 + number, WORDS[signal.Signals(number)]


def exit_on_signals() -> None:
    """Have signals end the process at once, with one line on stderr and the code of the signal."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _exit)


def ignore_signals() -> None:
    """Nothing is left to break off: the exit code is settled."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def signals_end_at_once() -> bool:
    """Whether signals end the process at once now."""
    return any(signal.getsignal(number) == _exit for number in ENDING)


@contextmanager
def signals_raised() -> Iterator[None]:
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
    end_waiting()
    with suppress(OSError):
        os.write(2, f"error: {WORDS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)
