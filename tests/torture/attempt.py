"""One run of the program in a forked child of a warm process: what it printed, did, cost, and how it ended."""

from __future__ import annotations

import gc
import os
import pty
import resource
import select
import signal
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from rebasin_cli.start import main
from tests.torture.watching import watch

DEADLINE = 20.0  # seconds, after which an attempt counts as a hang
_ROOM = 4 << 30  # bytes of address space beyond the warm process's: the machine is shared
_KEPT = 4 << 20  # bytes of each stream that are looked at
_OUTPUT = 1  # the place of the output flags among the attributes of a terminal


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
        code: exit code, or minus the number of the signal; hung: it was killed at the deadline.
        seconds: wall time; megabytes: the largest resident memory, of an attempt beyond an idle child's.
        streams: what came through the pipes.
    """

    code: int
    hung: bool
    seconds: float
    megabytes: float
    streams: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """A run of the program: `seen` is what the watch recorded, as (kind, what)."""

    ended: Ended
    out: bytes
    err: bytes
    seen: tuple[tuple[str, str], ...]

    @property
    def printed(self) -> str:
        """Both streams; bytes that are no UTF-8 become surrogates."""
        return (self.out + b"\n" + self.err).decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is unusual about the child.

    Attributes:
        stdin: a file in its folder; terminal: stdout and stderr are a terminal's.
        prepare: called in the child, last before the program.
        environment: variables, on top of ours.
    """

    stdin: str = os.devnull
    terminal: bool = False
    prepare: Callable[[], None] | None = None
    environment: dict[str, str] = field(default_factory=dict)


def run_forked(
    action: Callable[[], int], readers: Sequence[int] = (), writers: Sequence[int] = (), seconds: float = DEADLINE
) -> Ended:
    """Run `action`, which gives the exit code, in a child.

    Args:
        readers: ends of pipes that are read meanwhile, and closed; writers: their other ends, which are the child's.
    """
    sys.stdout.flush()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            gc.freeze()  # what the warm process holds is not looked through by every collection
            code = action()
        finally:
            os._exit(code & 0xFF)
    for descriptor in writers:
        os.close(descriptor)
    kept = {descriptor: bytearray() for descriptor in readers}
    hung = _follow(child, kept, began + seconds)
    _, status, used = os.wait4(child, 0)
    took = time.monotonic() - began
    for descriptor in kept:
        os.close(descriptor)
    streams = tuple(bytes(data) for data in kept.values())
    return Ended(os.waitstatus_to_exitcode(status), hung, took, used.ru_maxrss / 1024, streams)


def _follow(child: int, kept: dict[int, bytearray], deadline: float) -> bool:
    """Read until the child ends, or kill it at the deadline and say so."""
    ended = os.pidfd_open(child)
    open_ends = set(kept)
    hung = False
    while True:
        left = max(0.0, deadline - time.monotonic())
        ready = select.select([ended, *open_ends], [], [], None if hung else left)[0]
        if not ready:
            hung = True
            os.killpg(child, signal.SIGKILL)
        for descriptor in open_ends & set(ready):
            if not _drain(descriptor, kept[descriptor]):
                open_ends.discard(descriptor)
        if ended in ready:
            break
    for descriptor in open_ends:
        while _drain(descriptor, kept[descriptor]):
            pass
    os.close(ended)
    return hung


def _drain(descriptor: int, kept: bytearray) -> bool:
    """Whether something came; not so at the end, if nothing is there, or if a terminal's other side is closed."""
    try:
        data = os.read(descriptor, 1 << 16)
    except OSError:
        return False
    if len(kept) < _KEPT:
        kept += data
    return bool(data)


def attempt(
    arguments: Sequence[str], top: Path, surroundings: Surroundings = Surroundings(), seconds: float = DEADLINE
) -> Attempt:
    """Run the program in the folder `work` of `top`; it may write there, and in `tmp` and `home` beside it."""
    idle = _idle(_own_memory() >> 24)
    log, note = os.pipe()
    if surroundings.terminal:
        out, stdout = pty.openpty()
        attributes = termios.tcgetattr(stdout)
        attributes[_OUTPUT] = 0  # bytes come through as they are written
        termios.tcsetattr(stdout, termios.TCSANOW, attributes)
        readers, writers = [log, out], [note, stdout]
    else:
        (out, stdout), (err, stderr) = os.pipe(), os.pipe()
        readers, writers = [log, out, err], [note, stdout, stderr]
    for descriptor in readers:
        os.set_blocking(descriptor, False)

    def action() -> int:
        _settle(top, surroundings, writers[1], writers[-1])
        for descriptor in (*readers, *writers[1:]):
            os.close(descriptor)
        if surroundings.prepare:
            surroundings.prepare()
        watch(note, [top / name for name in ("work", "tmp", "home")])
        return _run(arguments)

    ended = run_forked(action, readers, writers, seconds)
    ended = replace(ended, megabytes=max(0.0, ended.megabytes - idle))
    seen, *texts = ended.streams
    lines = [line.partition(" ") for line in seen.decode("utf-8", "replace").splitlines()]
    return Attempt(ended, texts[0], texts[-1] if len(texts) > 1 else b"", tuple((a, b) for a, _, b in lines))


def _settle(top: Path, surroundings: Surroundings, out: int, err: int) -> None:
    """Make the child a process in its own folders with its own streams and bounded memory."""
    os.chdir(top / "work")
    stdin = os.open(surroundings.stdin, os.O_RDONLY | os.O_NONBLOCK)
    for descriptor, stream in ((stdin, 0), (out, 1), (err, 2)):
        os.dup2(descriptor, stream)
    os.close(stdin)
    os.environ.pop("COLUMNS", None)
    places = {"HOME": "home", "XDG_STATE_HOME": "home/state", "XDG_CACHE_HOME": "home/cache", "TMPDIR": "tmp"}
    os.environ.update({name: str(top / place) for name, place in places.items()})
    os.environ.update({"TERM": "dumb", "NO_COLOR": "1", "MPLCONFIGDIR": str(top / "home"), **surroundings.environment})
    tempfile.tempdir = None
    sys.dont_write_bytecode = True
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    room = address_space() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))


def address_space() -> int:
    """Bytes of address space that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _own_memory() -> int:
    """Bytes of memory that this process shares with no file: a child starts with them."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * resource.getpagesize()


@cache
def _idle(memory: int) -> float:
    """The memory of a child that does nothing; measured again where that of this process has become another."""
    return run_forked(lambda: 0).megabytes


def _run(arguments: Sequence[str]) -> int:
    """The program's exit code, as its process would give it."""
    sys.argv = ["rebasin", *arguments]
    code = main()
    gc.collect()  # as at the end of an interpreter, which os._exit leaves out
    return code
