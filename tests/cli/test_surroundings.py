"""Streams that are closed or full, limits, odd environments, signals while modules are imported: real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small import command, environment, hear_hangups, save_pair

AB = ("a.safetensors", "b.safetensors")
ALIGN = "align a.safetensors b.safetensors -f -q"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pair(tmp_path)
    return tmp_path


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter (pytest's own are for root alone)."""
    with tempfile.TemporaryDirectory(prefix="rebasin-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def shell(folder: Path, line: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `rebasin` is ours; what it prints is the code of each `rebasin`."""
    program = f'rebasin() {{ "{sys.executable}" -m rebasin_cli "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", program], cwd=folder, env=environment(**more), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip


LINES = [
    (f"rebasin {ALIGN} 2>&-", 0),
    (f"rebasin {ALIGN} >&-", 0),
    (f"rebasin {ALIGN} <&- >&- 2>&-", 0),
    (f"rebasin {ALIGN} --json >&-", 4),
    (f"rebasin {ALIGN} --dry-run >&-", 4),
    (f"rebasin {ALIGN} -o - >&-", 4),
    ("rebasin inspect a.safetensors >&-", 4),
    ("rebasin arch list >&-", 4),
    ("rebasin --help >&-", 4),
    ("rebasin interpolate <&-", 2),
    ("rebasin --help | true; exit ${PIPESTATUS[0]}", 141),
    ("rebasin align --help | true; exit ${PIPESTATUS[0]}", 141),
    ("rebasin --version >/dev/full", 4),
    ("rebasin arch show mlp >/dev/full", 4),
    ("rebasin arch show mlp 2>/dev/full >/dev/null", 0),
    ("rebasin wings 2>/dev/full", 2),
    (f"ulimit -v 300000; rebasin {ALIGN}", 4),
    (f"ulimit -n 6; rebasin {ALIGN}", 4),
    (f"ulimit -f 0; rebasin {ALIGN}", 4),
]


@pytest.mark.parametrize(("line", "code"), LINES, ids=[line for line, _ in LINES])
def test_a_stream_or_a_limit(folder: Path, line: str, code: int) -> None:
    done = shell(folder, line)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if code == 141:
        assert done.stderr == ""


def test_no_stream_is_taken_for_a_file(folder: Path) -> None:
    """What libraries print to descriptor 2 must not land in an output that got this number."""
    assert shell(folder, f"rebasin {ALIGN} 2>&- >&-", OMP_NUM_THREADS="garbage").returncode == 0
    names = {path.name for path in folder.iterdir()}
    assert {"b.aligned.safetensors", "b.rebasin.json"} <= names
    assert not any(b"libgomp" in path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONWARNINGS": "error"},
        {"COLUMNS": "0", "LINES": "garbage", "TERMINAL_WIDTH": "garbage"},
        {"PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "1"},
        {"PYTHONOPTIMIZE": "2", "TMPDIR": "/absent", "HOME": "", "CUDA_VISIBLE_DEVICES": "garbage"},
        {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": "C", "OMP_NUM_THREADS": "-3"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_an_environment_changes_no_code(folder: Path, variables: dict[str, str]) -> None:
    done = shell(folder, f"rebasin interpolate --help >/dev/null && rebasin {ALIGN} >/dev/null", **variables)
    assert done.returncode == 0, done.stderr


UNREADABLE = [
    "inspect no.safetensors", "inspect shut", "inspect shut/x.safetensors", "inspect no.pt:x", "report no.json",
    "align no.safetensors b.safetensors", "align a.safetensors b.safetensors --data no.npz",
    "align a.safetensors b.safetensors --arch no.yaml", "arch show no.yaml", "arch prove gpt2 --config no.json",
    "apply no.safetensors a.safetensors -o o.safetensors", "merge a.safetensors no.safetensors -o o.safetensors",
    "interpolate a.safetensors b.safetensors --permutation no.safetensors", "repair a.safetensors --data no.npz",
    "repair a.safetensors --data data.npz --end no.safetensors --end a.safetensors",
    "interpolate a.safetensors b.safetensors --data data.npz --resume no.json",
]  # fmt: skip
_AS_NOBODY = """
import contextlib, io, os
from rebasin_cli.cli import main
with contextlib.redirect_stdout(io.StringIO()):  # a rehearsal: Python may lie where only root may read
    assert main("interpolate a.safetensors b.safetensors --dry-run --data data.npz -q".split()) == 0
    main("repair a.safetensors --data data.npz -q".split())
    main("arch prove gpt2 --config absent.json".split())
os.setgid(65534)
os.setuid(65534)
for line in {lines!r}:
    print(main(line.split()), line, flush=True)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user, who may not read")
def test_what_may_not_be_read_is_the_systems_failure(open_folder: Path) -> None:
    save_pair(open_folder)
    for path in open_folder.iterdir():
        path.chmod(0o644)
    for ending in ("safetensors", "pt", "npz", "json", "yaml"):
        (open_folder / f"no.{ending}").touch(0)
    (open_folder / "shut").mkdir(0)
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY.format(lines=UNREADABLE)], cwd=open_folder, env=environment(),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"4 {line}" for line in UNREADABLE], done.stderr


ENDINGS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def _is_ours(pid: int) -> bool:
    """Whether the program handles SIGTERM by now, before which Python itself is starting."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells when the program has begun")
@pytest.mark.parametrize("wait", range(10))
def test_a_signal_while_modules_are_imported(folder: Path, wait: int) -> None:
    """At ten times, each signal at three of them or four: one loop sets the same handler for all three."""
    number, code = list(ENDINGS.items())[wait % 3]
    process = subprocess.Popen(
        command("align", *AB, "-f"), cwd=folder, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear_hangups,
    )  # fmt: skip
    while not _is_ours(process.pid):
        time.sleep(0.001)
    time.sleep(0.2 * wait)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=120)
    assert process.returncode in (0, code), err
    assert err.count(b"\n") == (process.returncode != 0)
    assert process.returncode == 0 or out == b""
    assert not any("rebasin-" in path.name for path in folder.iterdir())
