"""Faults of the environment: streams that are closed or full, limits, folders that cannot be written, odd names."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path

from tests.small import command as as_process
from tests.small import environment
from tests.torture.attempt import Attempt, Ended, Surroundings, address_space, attempt
from tests.torture.hostile import spread
from tests.torture.judging import CONTRACT, Row, Snapshot, is_whole
from tests.torture.stock import fresh

_LINES = (
    "inspect a.safetensors",
    "align a.safetensors b.safetensors -o o.safetensors",
    "align a.safetensors m -o o",
    "apply p.safetensors b.safetensors -o o.safetensors",
    "interpolate a.safetensors b.safetensors --steps 3 --data data.npz --report r.json",
    "interpolate a.safetensors b.safetensors --steps 3 -o points",
    "merge a.safetensors b.safetensors -o o.safetensors",
    "report run.json --html r.html",
    "arch check spec.yaml a.safetensors",
    "align - b.safetensors -o o.safetensors < a.safetensors",
    "align a.safetensors b.safetensors b.pt m -o o --summary s.safetensors",
    "plane a.safetensors b.safetensors --permutation p.safetensors --data data.npz --steps 2 --report r.json",
    "rerun align.json --into o",
)
_PIPE = 141  # of a reader that went away
_NOBODY = 65534
_NAMES = (
    "\udcff.safetensors", "\x1b[31m", "a\nerror: forged", "", " ", "-", "--", "n" * 5_000, "a/" * 3_000, "\u202ex",
    "[/]",
    "~", "x\x00y", "/", ".", "NUL", "a:b", "a.safetensors:b", ":", "a.safetensors/x",
)  # fmt: skip
# Where N is such a name.
_NAMED = (
    "inspect N", "align a.safetensors N -o o.safetensors", "align a.safetensors b.safetensors -o N", "report N",
    "arch show N",
    "align a.safetensors b.safetensors --arch N -o o.safetensors", "interpolate a.safetensors b.safetensors --data N",
    "N",
    "align a.safetensors b.safetensors --set N", "interpolate a.safetensors b.safetensors --at N",
    "arch prove N --network N",
)  # fmt: skip
_VARIABLES = (
    ("COLUMNS", "-1"), ("COLUMNS", "0"), ("COLUMNS", "9" * 400), ("COLUMNS", "x"), ("LINES", "-1"),
    ("OMP_NUM_THREADS", "x"),
    ("TERM", "\x1b[31m"), ("FORCE_COLOR", "1"), ("NO_COLOR", ""), ("PYTHONUTF8", "0"), ("LC_ALL", "xx"),
    *((name, value) for name in ("TMPDIR", "HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")
      for value in ("/nowhere/at/all", "/dev/null", "", "\udcff", "x" * 5_000)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong around a run.

    Attributes:
        prepare: called in the child, in its folder, before the program.
        allowed: exit codes of the contract in this case; told: whether a failure has to be told on stderr.
    """

    name: str
    prepare: Callable[[], object] = int
    lines: tuple[str, ...] = _LINES
    allowed: Collection[int] = CONTRACT
    told: bool = True
    environment: dict[str, str] = field(default_factory=dict)


def run(stock: Path, only: str, most: int | None, seed: int, *, processes: int) -> Iterator[Row]:
    """Attack with every fault, each command in turn, and with signals to as many `processes`."""
    rows: dict[str, Row] = {}
    plan = [(fault, line) for fault in _faults() if fault.name.startswith(only) for line in fault.lines]
    for fault, line in spread(plan, most):
        kind = fault.name.partition("/")[0]
        _attack(fault, line, stock, rows.setdefault(kind, Row(f"fault: {kind}")))
    yield from rows.values()
    if processes and "signal".startswith(only.partition("/")[0]):
        yield _signals(stock, processes, seed, only)


def _attack(fault: Fault, line: str, stock: Path, row: Row) -> None:
    words = line.split(" ")
    stdin = words[words.index("<") + 1] if "<" in words else os.devnull
    arguments = words[: words.index("<")] if "<" in words else words
    with fresh(stock) as top:
        work = top / "work"
        before = Snapshot.of(work)
        surroundings = Surroundings(stdin, prepare=lambda: fault.prepare() and None, environment=fault.environment)
        done = attempt(arguments, top, surroundings)
        _count(row, f"faults {fault.name}", line, done, fault, before, work)


def _count(row: Row, name: str, line: str, done: Attempt, fault: Fault, before: Snapshot, work: Path) -> None:
    row.add(name, ascii(line)[1:-1], done, fault.allowed, told=fault.told)
    before.judge(row, name, ascii(line)[1:-1], work, done.ended.code, whole=True)
    for path in {*work.rglob("o.safetensors"), *work.rglob("o/*.safetensors"), *work.rglob("lam-*")}:
        if not is_whole(path):
            row.count("torn", name, line, f"{path.name} is torn")


def _faults() -> Iterator[Fault]:
    for count in (1, 2, 3):
        for closed in combinations((0, 1, 2), count):
            name = "closed/" + "".join(map(str, closed))
            yield Fault(name, partial(_close, *closed), told=2 not in closed)
    for stream in (1, 2):
        yield Fault(f"full/{stream}", partial(_redirect, stream, "/dev/full"), told=stream != 2)
        yield Fault(f"unread/{stream}", partial(_unread, stream), allowed={*CONTRACT, _PIPE}, told=False)
    reports = (*(f"{line} --report /dev/full" for line in _LINES[1:4]), "report run.json --html /dev/full")
    yield Fault("full/output", lines=(*reports, "merge a.safetensors b.safetensors -o /dev/full"))
    streamed = ("align a.safetensors b.safetensors -o -", "report run.json --html -")
    yield Fault("full/streamed", lambda: _redirect(1, "/dev/full"), lines=streamed)
    # Without any, Python itself waits for ever for a thread that it could not begin.
    for megabytes in (1, 4, 16, 64, 256):
        yield Fault(f"memory/{megabytes}MB", partial(_limit_memory, megabytes << 20))
    for number in (3, 4, 5, 6, 8, 12, 20, 40):
        yield Fault(f"files/{number}", partial(_limit, resource.RLIMIT_NOFILE, number))
    for number in (0, 1, 100, 1_000, 4_096, 20_000):
        yield Fault(f"size/{number}", partial(_limit, resource.RLIMIT_FSIZE, number))
    threads = tuple(f"{line} --threads 4" for line in _LINES[1:3])
    yield Fault("processes/0", _forbid_processes, lines=(*_LINES, *threads))
    yield Fault("stack/64kB", lambda: _limit(resource.RLIMIT_STACK, 64 << 10))
    yield from _folders()
    for name, value in _VARIABLES:
        yield Fault(f"environment/{name}={value[:20]!a}", environment={name: value})
    for encoding in ("ascii", "latin-1"):
        yield Fault(f"environment/encoding-{encoding}", partial(_encode, encoding))
    for at, name in enumerate(_NAMES):
        yield Fault(f"names/{at}", lines=tuple(line.replace("N", name.replace(" ", "\t")) for line in _NAMED))


def _folders() -> Iterator[Fault]:
    def unreadable() -> None:
        for name in ("b.safetensors", "run.json", "spec.yaml", "data.npz"):
            os.chmod(name, 0)
        _become_nobody()

    yield Fault("folders/read-only", lambda: (os.chmod(".", 0o555), _become_nobody(own=False)))
    yield Fault("folders/no-entry", lambda: (_become_nobody(), os.chmod(".", 0o000)))
    yield Fault("folders/unreadable", unreadable)
    yield Fault("folders/gone", lambda: (os.mkdir("../gone"), os.chdir("../gone"), os.rmdir("../gone")))


def _close(*streams: int) -> None:
    """As Python starts where these are closed: it has None for them."""
    for stream in streams:
        os.close(stream)
        setattr(sys, ("stdin", "stdout", "stderr")[stream], None)


def _redirect(stream: int, path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.dup2(descriptor, stream)
    os.close(descriptor)


def _unread(stream: int) -> None:
    reader, writer = os.pipe()
    os.dup2(writer, stream)
    os.close(reader)
    os.close(writer)


def _forbid_processes() -> None:
    _become_nobody()
    _limit(resource.RLIMIT_NPROC, 0)


def _limit_memory(room: int) -> None:
    _limit(resource.RLIMIT_AS, address_space() + room)


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def _become_nobody(*, own: bool = True) -> None:
    """Root may do everything: give the folders to another user, and become him."""
    if os.getuid():
        return
    os.chmod("..", 0o755)
    if own:
        for folder in ("../work", "../tmp", "../home"):
            os.chown(folder, _NOBODY, _NOBODY)
    os.setgroups([])
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)


def _encode(encoding: str) -> None:
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115


# -- signals, which have to hit a start as it is: processes of their own --------------------------------------------


def _signals(stock: Path, processes: int, seed: int, only: str) -> Row:
    """Send signals in the first two seconds."""
    row = Row("fault: signal")
    for number in range(processes):
        chosen = random.Random(f"{seed}-{number}")
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL, signal.SIGPIPE)
        sent, line = signals[number % 5], chosen.choice(_LINES[1:7])
        delay = 2.0 * (number + chosen.random()) / processes
        name = f"signal/{number}"
        if not name.startswith(only):
            continue
        with fresh(stock) as top:
            before = Snapshot.of(top / "work")
            done = _struck(line, top / "work", sent, delay)
            # Before our own handlers stand, the system's or Python's end the process, by the signal itself.
            fault = Fault(name, allowed={0, 128 + sent, -sent, *({1} if sent == signal.SIGINT else set())}, told=False)
            _count(
                row,
                f"faults {name}",
                f"{line} (signal {sent} after {delay:.2f} s)",
                done,
                fault,
                before,
                top / "work",
            )
    return row


def _struck(line: str, work: Path, sent: int, delay: float) -> Attempt:
    began = time.monotonic()
    process = subprocess.Popen(
        as_process(*line.split()), cwd=work, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE
    )  # fmt: skip
    time.sleep(delay)
    process.send_signal(sent)
    try:
        out, err = process.communicate(timeout=60)
        hung = False
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        hung = True
    if sent == signal.SIGINT and process.returncode in (1, -sent):
        err = b""  # a traceback, Python's own: our handlers, which end with 130, did not stand yet
    return Attempt(Ended(process.returncode, hung, time.monotonic() - began, 0.0), out, err, ())
