"""Full disks, folders of others, interrupts and memory, each in a process of its own where it really bites."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.writer import write_checkpoint
from rebasin_cli.errors import SystemFailure
from tests.checkpoints.building import run_python, write_sharded

COPY = """
    from rebasin_cli.checkpoints.writer import check_target, write_checkpoint
    from rebasin_cli.checkpoints.opening import open_checkpoint
    from rebasin_cli.errors import SystemFailure
    def check(source, target):
        try:
            check_target(Path(target), open_checkpoint(Path(source)), force=True)
        except SystemFailure as error:
            print(error)
    def copy(source, target):
        checkpoint = open_checkpoint(Path(source))
        try:
            write_checkpoint(Path(target), checkpoint, checkpoint.read_raw, metadata={}, force=True)
        except SystemFailure as error:
            print(error)
"""


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    path = tmp_path / "source.safetensors"
    save_file({f"w{i}": torch.randn(1 << 16) for i in range(8)}, path)  # 2 MiB
    shards = {f"model-0000{i}-of-00002.safetensors": {f"w{i}": torch.randn(1 << 18)} for i in (1, 2)}
    return path, write_sharded(tmp_path / "folder", shards)


def test_a_file_size_limit(sources: tuple[Path, Path], tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    (outputs / "0").write_text("mine")
    for number, source in enumerate(sources):
        done = run_python(
            COPY
            + """
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))
    copy(*sys.argv[1:])
    """,
            source,
            outputs / str(number),
        )
        assert f"cannot write {outputs / str(number)}: the file would be larger than is allowed" in done.stdout, done
    assert [path.name for path in outputs.rglob("*")] == ["0"]
    assert (outputs / "0").read_text() == "mine"


def test_a_folder_of_someone_else_is_noticed_beforehand(sources: tuple[Path, Path], tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    for folder in (outputs, outputs / "in"):
        folder.mkdir()
    for source in (sources[0], *sources[1].iterdir()):
        source.chmod(0o644)
    for folder in (outputs, outputs / "in"):
        folder.chmod(0o555)
    for source, name in ((sources[0], "out.safetensors"), (sources[1], "out"), (sources[1], "in")):
        done = run_python(
            COPY + "    become_nobody_in(sys.argv[1])\n    check(*sys.argv[2:])",
            tmp_path,
            source.relative_to(tmp_path),
            f"outputs/{name}",
        )
        assert re.match(f"cannot write (into )?outputs/{name}: .*(permission denied|not writable)", done.stdout), done
        assert "permissions" in done.stdout
    assert [path.name for path in outputs.rglob("*")] == ["in"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB, where a process may mount one."""
    libc = ctypes.CDLL(None, use_errno=True)
    disk = tmp_path / "disk"
    disk.mkdir()
    if libc.mount(b"none", bytes(disk), b"tmpfs", 0, b"size=1m") != 0:
        pytest.skip(f"no tmpfs can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield disk
    libc.umount(bytes(disk))


def test_a_small_disk(small_disk: Path, sources: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for source in sources:
        checkpoint = open_checkpoint(source)
        with pytest.raises(SystemFailure, match=r"2\.1 MB are needed and 1\.05 MB are free"):
            write_checkpoint(small_disk / "out", checkpoint, checkpoint.read_raw, metadata={})
        # The room may also go while writing: the file system is made to say nothing beforehand.
        with monkeypatch.context() as patch:
            patch.setattr("rebasin_cli.checkpoints.writer.check_space", lambda *_: None)
            with pytest.raises(SystemFailure, match=f"cannot write {small_disk / 'out'}: the disk is full"):
                write_checkpoint(small_disk / "out", checkpoint, checkpoint.read_raw, metadata={})
        assert list(small_disk.iterdir()) == []


def test_an_interrupt_in_the_middle(sources: tuple[Path, Path], tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    code = """
import signal, sys, time
from pathlib import Path
from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.writer import write_checkpoint
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with it ignored
checkpoint = open_checkpoint(Path(sys.argv[1]))
def read(key):
    if key == list(checkpoint)[-1]:
        print("ready", flush=True)
        time.sleep(60)
    return checkpoint.read_raw(key)
write_checkpoint(Path(sys.argv[2]), checkpoint, read, metadata={})
"""
    for source in sources:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(source), str(outputs / "out")],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert {path.name for path in outputs.iterdir()} == {".out.rebasin-lock", ".out.rebasin-partial"}
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) != 0
        process.stdout.close()
        assert list(outputs.iterdir()) == []


MEMORY = """
    import torch
    from rebasin_cli.checkpoints.opening import open_checkpoint
    from rebasin_cli.checkpoints.tensors import scan
    from rebasin_cli.checkpoints.writer import write_checkpoint

    def peak():
        return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

    checkpoint = open_checkpoint(Path(sys.argv[1]))
    torch.ones(1).sum()
    before = peak()
    if sys.argv[3] == "careless":
        kept = [checkpoint[key] for key in checkpoint]
    else:
        scan(checkpoint)
        def read(key):
            tensor = checkpoint[key]
            return tensor[torch.arange(tensor.shape[0] - 1, -1, -1)]
        write_checkpoint(Path(sys.argv[2]), checkpoint, read, metadata={})
    print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_is_bounded_by_a_tensor(tmp_path: Path) -> None:
    """Measured by VmHWM of the process itself: getrusage's peak begins with that of the process that started it."""
    largest = 40 << 20  # larger than anything that malloc keeps for itself when it is freed
    path = tmp_path / "big.safetensors"
    sizes = [largest] * 6 + [largest // 8] * 10  # 290 MiB
    save_file({f"w{i:02d}": torch.zeros(1024, size // 4096) for i, size in enumerate(sizes)}, path)
    grown = int(run_python(MEMORY, path, tmp_path / "out.safetensors", "copy").stdout)
    assert 2 * largest < grown < 2.6 * largest  # the tensor and its permuted copy
    assert (tmp_path / "out.safetensors").stat().st_size >= sum(sizes)
    assert int(run_python(MEMORY, path, tmp_path / "x", "careless").stdout) > 0.9 * sum(sizes)  # the measure measures
