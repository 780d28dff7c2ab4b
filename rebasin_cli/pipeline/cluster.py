"""`--cluster`: independent tasks on the workers of a Dask scheduler instead of threads of this process.

A task is a function of a module with small arguments. Workers read checkpoints by their paths themselves, so paths,
versions and the folder of outputs are compared before the work begins. A task whose worker dies is given to another
one by the scheduler; what a task computes does not depend on where it runs.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import platform
import re
import secrets
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, InvalidStateError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

import rebasin_cli
from rebasin_cli.checkpoints.checkpoint import split_address
from rebasin_cli.errors import SystemFailure, UsageError
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.inputs import Source

LOST = 10
"""Seconds without a scheduler after which it is taken for gone."""

PATIENCE = 30
"""Seconds that a scheduler has to answer, and to have a first worker: jobs of a queue take a while to start."""

AHEAD = 4
"""Tasks that are handed to the scheduler for every thread of a worker, so that none waits for the next one."""

_HEAD = 1 << 16
"""Bytes of a file that are compared before the work: the names and shapes of most checkpoints, and some values."""

_LOCAL = re.compile(r"local:(\d+)")
_ADDRESS = re.compile(r"(?:[a-z]+://)?\S+:\d+")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Workers:
    """A cluster that is ready.

    Attributes:
        executor: takes functions of modules with arguments that can be pickled.
        at_once: how many of them may be under way.
    """

    executor: Executor
    at_once: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a worker is and sees: versions by library, and what each path holds, or why it cannot be read."""

    versions: Mapping[str, str]
    held: Mapping[str, str]


class _OnWorkers(Executor):
    """The executor of a client, whose tasks look first whether their worker has our versions: one may join late."""

    def __init__(self, executor: Executor, versions: Mapping[str, str]) -> None:
        self._executor, self._versions = executor, versions
        self._given: set[Future[Any]] = set()  # those that are not done

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Any:
        future = self._executor.submit(_on_worker, self._versions, fn, args, kwargs)
        self._given.add(future)
        future.add_done_callback(self._given.discard)
        return future

    def watch(self, client: Any, ended: Event) -> None:
        """Give up all tasks once the scheduler is gone: tasks given while the client looks for it hear nothing."""
        lost = 0
        while not ended.wait(1):
            lost = 0 if client.status == "running" else lost + 1
            for future in list(self._given) if lost > LOST else ():
                with suppress(InvalidStateError):
                    future.set_exception(CancelledError())


def _on_worker(
    wanted: Mapping[str, str], function: Callable[..., T], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> T:
    """Run a task as a pool of threads does: torch with one thread, so that sums have the same order everywhere."""
    import torch

    _require_versions(wanted, _versions(), platform.node())
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    return function(*args, **kwargs)


@contextmanager
def workers(
    named: str, inputs: Sequence[Source | Path], progress: Progress, folder: Path | None = None
) -> Iterator[Workers]:
    """Connect to the cluster, and see that its workers can do the work.

    Args:
        named: `tcp://HOST:PORT`, a scheduler file, or `local:N`.
        inputs: what tasks read.
        folder: where tasks write; it is there.

    Raises:
        UsageError: `named` is none of these, or an input is in memory only.
        SystemFailure: no scheduler or no worker; a worker that cannot read an input, does not share the folder, or has
            another version of Python, rebasin, torch or numpy; later, a task on which worker after worker died.
    """
    paths = [_path_of(source) for source in inputs]
    with ExitStack() as stack:
        client = _connected(named, stack)
        with progress.phase("waiting for workers"):
            count = _wait_for_workers(client, named)
            _check_workers(client, named, paths, folder)
        progress.remark(f"{named}: {count} {'thread' if count == 1 else 'threads'} of workers")
        executor, ended = _OnWorkers(client.get_executor(pure=False), _versions()), Event()
        stack.callback(ended.set)
        Thread(target=executor.watch, args=(client, ended), daemon=True).start()
        try:
            yield Workers(executor, AHEAD * count)
        except Exception as error:
            raise _told(error, named) from error


def _path_of(source: Source | Path) -> str:
    path = source if isinstance(source, Path) else split_address(source.path)[0]
    if isinstance(source, Source) and source.held is not None:
        raise UsageError(
            "--cluster: workers read checkpoints by path, and this one is in memory",
            remedy="save it, and name the file; or leave --cluster away",
        )
    return os.path.abspath(path)


def _connected(named: str, stack: ExitStack) -> Any:
    """A client of the scheduler that is named, closed with `stack`."""
    local, is_file = _LOCAL.fullmatch(named), os.path.isfile(named)
    if not (local or is_file or _ADDRESS.fullmatch(named)):
        raise UsageError(
            f"--cluster {named} is no address, and there is no such file",
            remedy="name tcp://HOST:PORT, the file of `dask scheduler --scheduler-file FILE`, or local:4",
        )
    if local and not 1 <= int(local[1]) <= 1024:
        raise UsageError(f"--cluster {named}: from 1 to 1024 processes can be started", remedy="--cluster local:4")
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise SystemFailure(
            f"--cluster needs distributed, which cannot be imported: {error}",
            remedy="pip install 'rebasin-cli[cluster]'",
        ) from error
    _silence()
    place = {"address": named}
    if local:
        place = {"address": stack.enter_context(_local_cluster(distributed, int(local[1])))}
    elif is_file:
        place = {"scheduler_file": named}
    try:
        return stack.enter_context(distributed.Client(**place, timeout=PATIENCE, set_as_default=False))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SystemFailure(
            f"no Dask scheduler answers at {named}: {error}",
            remedy="start one with `dask scheduler`, and workers with `dask worker tcp://HOST:8786`; or use "
            "--cluster local:4",
        ) from error


def _silence() -> None:
    """What goes wrong is told as an error of ours. Some of Dask's loggers have levels of their own."""
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _local_cluster(distributed: Any, count: int) -> Any:
    """Processes of this machine, reached over loopback, with a thread each."""
    folder = tempfile.gettempdir()  # not the current one, where only outputs are written
    return distributed.LocalCluster(
        n_workers=count, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL, local_directory=folder, preload=[__name__],
    )  # fmt: skip


def dask_setup(_: Any) -> None:
    """What Dask calls in each of these processes: a terminal sends Ctrl-C to them, too, and who started them ends them
    anyway. They would show tracebacks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _wait_for_workers(client: Any, named: str) -> int:
    """Wait for the first worker; threads of all that are there."""
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise SystemFailure(
            f"the scheduler at {named} has no worker, after {PATIENCE} seconds",
            remedy="start workers: `dask worker tcp://HOST:8786`; jobs of a queue may still be waiting",
        ) from error
    return sum(client.nthreads().values())


def _check_workers(client: Any, named: str, paths: Sequence[str], folder: Path | None) -> None:
    """Compare what all workers are and see with what is here."""
    with ExitStack() as stack:
        if folder is not None:
            mark = stack.enter_context(_mark(folder))
            paths = [*paths, mark]  # the last one
        here = _look(paths)
        try:
            seen = client.run(_look, paths)
        except Exception as error:  # a worker without rebasin raises what it likes
            raise SystemFailure(
                f"a worker of {named} cannot begin: {error}",
                remedy=f"install rebasin-cli {rebasin_cli.__version__} where the workers run",
            ) from error
    for worker, there in seen.items():
        _require_versions(here.versions, there.versions, worker)
        for path, held in here.held.items():
            if there.held[path] != held:
                what = there.held[path] if there.held[path].startswith("cannot") else "holds another file"
                raise SystemFailure(
                    f"{'the folder of outputs' if folder and path == paths[-1] else path}: {what} on a worker",
                    where=f"{worker} of {named}",
                    remedy="workers read and write by path: put the files where all machines have them under one path",
                )


@contextmanager
def _mark(folder: Path) -> Iterator[str]:
    """A file in the folder for a moment, by which a worker knows that it is the same one."""
    path = folder.absolute() / f".rebasin-{secrets.token_hex(8)}"
    path.write_bytes(secrets.token_bytes(16))
    try:
        yield str(path)
    finally:
        with suppress(OSError):
            path.unlink()


def _look(paths: Sequence[str]) -> _Seen:
    """What is here: on a worker, or where the command runs."""
    return _Seen(_versions(), {path: _held(path) for path in paths})


def _held(path: str) -> str:
    """Size and hash of the first bytes of a file, and of all files of a folder."""
    try:
        if os.path.isdir(path):
            return ";".join(
                f"{entry.name} {entry.stat().st_size}"
                for entry in sorted(os.scandir(path), key=lambda entry: entry.name)
                if entry.is_file()
            )
        with open(path, "rb") as file:
            return f"{os.fstat(file.fileno()).st_size} {hashlib.sha256(file.read(_HEAD)).hexdigest()}"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _versions() -> dict[str, str]:
    import numpy
    import torch

    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "rebasin": rebasin_cli.__version__,
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }


def _require_versions(here: Mapping[str, str], there: Mapping[str, str], worker: str) -> None:
    for library, version in here.items():
        if there[library] != version:
            raise SystemFailure(
                f"a worker has {library} {there[library]}, and here is {version}",
                where=worker,
                remedy="install the same versions on all machines: the same bytes come of the same code only",
            )


def died_of_it(error: Exception, named: str) -> SystemFailure | None:
    """What to say of a task that was given up because its workers died, one after another; None of other failures."""
    from distributed import KilledWorker

    if not isinstance(error, KilledWorker):
        return None
    return SystemFailure(
        f"worker after worker of {named} died of one task",
        remedy="see in the workers' logs why they die: most often memory, and `dask worker --memory-limit` sets it",
    )


def _told(error: Exception, named: str) -> Exception:
    """A failure of the cluster as ours; any other one as it is."""
    from distributed.comm.core import CommClosedError

    if failure := died_of_it(error, named):
        return failure
    if isinstance(error, CancelledError | CommClosedError):
        return SystemFailure(f"the scheduler at {named} is gone", remedy="start it again, and the command")
    return error
