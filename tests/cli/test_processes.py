"""Pipes, signals and a full disk: what only real processes show."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

from tests.small import command, environment, hear_hangups, mlp_state, run, save, save_pair, shuffled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pair(tmp_path)
    return tmp_path


def chain(folder: Path, *parts: list[object]) -> list[subprocess.CompletedProcess[bytes]]:
    """`rebasin … | rebasin … | …`, all of them running at once."""
    processes: list[subprocess.Popen[bytes]] = []
    for part in parts:
        stdin = processes[-1].stdout if processes else subprocess.DEVNULL
        process = subprocess.Popen(
            command(*part), cwd=folder, env=environment(), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if processes and processes[-1].stdout:
            processes[-1].stdout.close()
        processes.append(process)
    out, err = processes[-1].communicate(timeout=300)
    done = []
    for process in processes[:-1]:
        assert process.stderr is not None
        errors = process.stderr.read()
        process.stderr.close()
        done.append(subprocess.CompletedProcess(process.args, process.wait(timeout=60), b"", errors))
    return [*done, subprocess.CompletedProcess(processes[-1].args, processes[-1].returncode, out, err)]


def test_align_interpolate_report(folder: Path) -> None:
    done = chain(
        folder,
        ["align", "a.safetensors", "b.safetensors"],
        ["interpolate", "--steps", 25, "--data", "data.npz"],
        ["report", "--html", "r.html", "--json"],
    )
    assert [process.returncode for process in done] == [0, 0, 0], [process.stderr for process in done]
    document = json.loads(done[-1].stdout)
    assert len(document["barrier"]["lambda"]) == 25
    assert document["barrier"]["aligned"]["barrier"] < 0.1 * document["barrier"]["naive"]["barrier"]
    assert (folder / "r.html").stat().st_size > 5000


def test_a_failure_before_the_pipe_is_named_after_it(folder: Path) -> None:
    first, second = chain(folder, ["align", "a.safetensors", "absent.safetensors"], ["interpolate"])
    assert (first.returncode, second.returncode) == (4, 2)
    assert b"the command before the pipe failed" in second.stderr


def test_a_checkpoint_through_pipes_on_both_sides(folder: Path) -> None:
    done = run(
        "align", "a.safetensors", "-", "-o", "-", "--report", "r.json",
        cwd=folder, stdin=(folder / "b.safetensors").read_bytes(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    a, aligned = load_file(folder / "a.safetensors"), load(done.stdout)
    assert all(torch.equal(aligned[key], a[key]) for key in a)
    document = json.loads((folder / "r.json").read_text())
    assert document["inputs"]["b"]["path"] == "-"
    assert sorted(path.name for path in folder.iterdir()) == ["a.safetensors", "b.safetensors", "data.npz", "r.json"]
    refused = run("interpolate", cwd=folder, stdin=(folder / "r.json").read_bytes())
    assert refused.returncode == 3
    assert b"read its checkpoint from a pipe, for B" in refused.stderr or b"from a pipe" in refused.stderr


def test_a_merged_checkpoint_is_streamed(folder: Path) -> None:
    done = run("interpolate", "a.safetensors", "b.safetensors", "--at", 0.5, "-o", "-", cwd=folder)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(load(done.stdout)["fc.0.weight"], load_file(folder / "a.safetensors")["fc.0.weight"])


def test_an_input_pipe_that_is_empty(folder: Path) -> None:
    done = run("inspect", "-", cwd=folder)
    assert done.returncode == 2
    assert b"the command before the pipe failed" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["arch", "show", "gpt2"], ["align", "a.safetensors", "b.safetensors", "-o", "-"]]
)
def test_a_closed_pipe_is_quiet(folder: Path, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 141
    assert b"Traceback" not in err
    assert b"BrokenPipe" not in err
    assert b"error" not in err


ENDINGS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "code"), ENDINGS)
def test_a_signal_leaves_no_partial_file(folder: Path, number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        command("interpolate", "a.safetensors", "b.safetensors", "--steps", 10001, "-o", "points"),
        cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=hear_hangups,
    )  # fmt: skip
    _wait_for(lambda: any((folder / "points").glob("lam-*")), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert b"Traceback" not in err
    assert out == b""
    names = sorted(path.name for path in (folder / "points").iterdir())
    assert names.pop() == "rebasin-points.json"
    assert 0 < len(names) < 10001
    for name in names:
        assert name.startswith("lam-")
        assert set(load_file(folder / "points" / name)) == set(mlp_state(0))
    assert not (folder / "points.rebasin.json").exists()


def test_a_signal_takes_the_spooled_input_away(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        process = subprocess.Popen(
            command("inspect", "-"), cwd=folder, env=environment(TMPDIR=temporary),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        _wait_for(lambda: any(Path(temporary).glob("rebasin-*/*")), process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 143
        assert list(Path(temporary).iterdir()) == []


def test_a_file_that_grows_too_large_is_the_systems_failure(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that fills up while we write."""
    state = mlp_state(0, (64, 64, 64, 8))
    save(tmp_path / "a.safetensors", state)
    save(tmp_path / "b.safetensors", shuffled(state, 1))
    before = sorted(path.name for path in tmp_path.iterdir())
    done = subprocess.run(
        command("align", "a.safetensors", "b.safetensors"), cwd=tmp_path, env=environment(), capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)), timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert b"error: cannot write" in done.stderr
    assert b"Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter (pytest's own are for root alone)."""
    folder = Path(tempfile.mkdtemp(prefix="rebasin-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_that_is_not_writable(open_folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user, for whom the folder is closed")
    save_pair(open_folder)
    for path in open_folder.iterdir():
        path.chmod(0o644)
    # Python itself may lie in root's own home: a rehearsal imports everything before the user changes.
    program = (
        "import os, sys\nfrom rebasin_cli.cli import main\nfiles = ['align', 'a.safetensors', 'b.safetensors']\n"
        "assert main([*files, '--dry-run']) == 0\nos.setgid(65534)\nos.setuid(65534)\nsys.exit(main(files))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=open_folder,
        env=environment(),
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert b"is not writable" in done.stderr


# -- a terminal --------------------------------------------------------------------------------------------


def on_terminal(folder: Path, *arguments: object, **more: str) -> tuple[str, int]:
    """Run with stdin, stdout and stderr on a terminal of 80 columns; what was shown, and the code."""
    surroundings = {**environment(TERM="xterm", COLUMNS="80", LINES="60"), **more}
    main, other = pty.openpty()
    process = subprocess.Popen(
        command(*arguments), cwd=folder, env=surroundings, stdin=other, stdout=other, stderr=other, close_fds=True
    )
    os.close(other)
    shown = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # how Linux tells that the other side is gone
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    return shown.decode("utf-8", "replace"), process.wait(timeout=60)


def test_a_terminal_gets_the_summary_and_the_plot(folder: Path) -> None:
    arguments = ("interpolate", "a.safetensors", "b.safetensors", "--steps", 5, "--data", "data.npz")
    shown, code = on_terminal(folder, *arguments, NO_COLOR="1")
    assert code == 0
    assert "schema_version" not in shown
    assert "One basin: barrier " in shown
    assert any(0x2800 < ord(sign) < 0x2900 for sign in shown)
    assert "naive path" in shown  # progress
    assert "5/5" in shown


def test_a_terminal_without_utf8_gets_ascii(folder: Path) -> None:
    arguments = ("interpolate", "a.safetensors", "b.safetensors", "--steps", 5, "--data", "data.npz", "-q")
    shown, code = on_terminal(folder, *arguments, NO_COLOR="1", PYTHONIOENCODING="ascii")
    assert code == 0
    assert shown.isascii()
    assert "lambda" in shown
    assert "***" in shown


def test_json_wins_over_the_terminal(folder: Path) -> None:
    shown, code = on_terminal(folder, "arch", "list", "--json")
    assert code == 0
    assert json.loads(shown)["command"] == "arch list"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["align", "a.safetensors", "b.safetensors", "-o", "-"], "to the terminal"),
        (["interpolate"], "nothing is piped in"),
        (["report"], "nothing is piped in"),
        (["inspect", "-"], "nothing is piped in"),
    ],
)
def test_a_terminal_is_no_pipe(folder: Path, arguments: list[str], says: str) -> None:
    shown, code = on_terminal(folder, *arguments)
    assert code == 2
    assert says in " ".join(shown.split())


@pytest.mark.parametrize(("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_that_wait_leave_the_cores_to_others(
    given: dict[str, str], policy: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    done = run("align", "a.safetensors", "b.safetensors", "-q", cwd=folder, OMP_DISPLAY_ENV="TRUE", **given)
    assert done.returncode == 0
    shown = re.findall(r"OMP_WAIT_POLICY *= *'(\w+)'", done.stderr.decode())
    assert shown
    assert set(shown) == {policy}


def _wait_for(condition: object, process: subprocess.Popen[bytes]) -> None:
    """Wait until something is there, or the process ends without it."""
    assert callable(condition)
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
