"""The program as a process of its own, without the seconds that its imports take: forked from one that has made them.

`python -m tests.forked N` is that one; it serves requests from the connection at descriptor N, one at a time.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent


def run_forked(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], streams: Sequence[int], seconds: float
) -> int:
    """Run the program to its end, with `streams` as its descriptors 0, 1 and 2, and return its exit code.

    Raises:
        TimeoutError: it was still running after that time; it is left alone.
    """
    server, connection = _server()
    connection.send((list(arguments), str(cwd), dict(environment)))
    for stream in streams:
        send_handle(connection, stream, server.pid)
    if not connection.poll(seconds):
        _server.cache_clear()
        raise TimeoutError(f"still running after {seconds:.0f} s: {arguments}")
    code: int = connection.recv()
    return code


@cache
def _server() -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = Pipe()
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
        cwd=ROOT, env=surroundings, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
    )  # fmt: skip
    theirs.close()
    atexit.register(server.wait)
    atexit.register(ours.close)  # is called first, and ends the server
    return server, ours


def _serve(connection: Connection) -> None:
    _rehearse()
    while True:
        try:
            arguments, folder, environment = connection.recv()
        except EOFError:
            return
        streams = [recv_handle(connection) for _ in range(3)]
        process = os.fork()
        if process == 0:
            code = 70
            try:
                connection.close()
                code = _become(arguments, folder, environment, streams)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        for stream in streams:
            os.close(stream)
        connection.send(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def _rehearse() -> None:
    """One run that loads what most runs do; libraries load much of theirs at the first use."""
    from rebasin_cli.cli import main

    pair = [str(ROOT / "tests" / "data" / f"digits_mlp_{which}.safetensors") for which in "ab"]
    data = str(ROOT / "tests" / "data" / "digits.npz")
    shown = StringIO()
    with TemporaryDirectory() as folder, redirect_stdout(shown), redirect_stderr(shown):
        plot = str(Path(folder) / "plot.png")
        code = main(["interpolate", *pair, "--data", data, "--steps", "2", "--threads", "1", "--plot", plot])
    assert code == 0, shown.getvalue()


def _become(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> int:
    """Be `rebasin ARGUMENTS` in a folder: its streams, its variables, and its `main`."""
    from rebasin_cli.start import main

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["rebasin", *arguments]
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    code = main()
    atexit._run_exitfuncs()
    return code


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
