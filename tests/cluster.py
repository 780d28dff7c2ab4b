"""A scheduler of Dask and its workers, each a process of its own on loopback."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.small import environment

_ENDS = "import sys; sys.argv[0] = 'dask'; from distributed.cli.{} import main; main()"


@dataclass
class Cluster:
    """A scheduler, told by its file, and the workers that were started."""

    file: Path
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_worker(self, surroundings: Mapping[str, str] | None = None) -> None:
        """A worker with one thread; it starts by and by."""
        words = ("--scheduler-file", str(self.file), "--nthreads", "1", "--no-nanny", "--no-dashboard")
        self.workers.append(_process("dask_worker", *words, cwd=self.file.parent, **(surroundings or {})))

    def wait(self, count: int) -> None:
        """Until so many workers are there."""
        with self.client() as client:
            client.wait_for_workers(count, timeout=120)

    def client(self) -> Any:
        """Of the scheduler."""
        from distributed import Client

        return Client(scheduler_file=str(self.file), set_as_default=False, timeout=60)

    def finished(self) -> int:
        """How many tasks workers have finished."""
        with self.client() as client:
            return int(client.run_on_scheduler(_finished))


def _finished(dask_scheduler: Any) -> int:
    return sum(entry[2] == "memory" for entry in dask_scheduler.transition_log)


@contextmanager
def cluster(folder: Path, workers: int = 2, **surroundings: str) -> Iterator[Cluster]:
    """A cluster that is there, and is ended with all that belongs to it; `surroundings`: variables of all processes."""
    file = folder / "scheduler.json"
    words = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    scheduler = _process("dask_scheduler", *words, cwd=folder, **surroundings)
    started = Cluster(file, scheduler)
    try:
        until = time.monotonic() + 60
        while not file.exists() and scheduler.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        for _ in range(workers):
            started.add_worker(surroundings)
        if workers:
            started.wait(workers)
        yield started
    finally:
        for process in (*started.workers, scheduler):
            process.kill()
            process.wait()


def _process(program: str, *words: str, cwd: Path, **surroundings: str) -> subprocess.Popen[bytes]:
    with open(cwd / f"{program}.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", _ENDS.format(program), *words],
            cwd=cwd, stdout=log, stderr=log, env=environment(**surroundings),
        )  # fmt: skip
