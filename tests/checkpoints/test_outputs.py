"""Sets of outputs, exchanged folders, locks, and what killed runs leave."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest
import torch

from rebasin_cli import files
from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.outputs import Outputs, new_file
from rebasin_cli.checkpoints.places import Lock, clean_leftovers, lock_path, partial_path
from rebasin_cli.checkpoints.writer import write_checkpoint
from rebasin_cli.errors import SystemFailure, UsageError
from rebasin_cli.files import ASIDE, exchange, rename_new
from tests.checkpoints.building import run_python, two_shards, write_sharded
from tests.small import ROOT, environment


@pytest.fixture(params=["the system's calls", "without them"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of renaming: every system has the second one."""
    if request.param == "without them":
        monkeypatch.setattr(files, "_system_call", lambda: None)


@pytest.mark.usefixtures("calls")
def test_a_set_appears_together(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    with Outputs(force=True) as outputs:
        for name in ("one", "two"):
            outputs.write(tmp_path / name, b"new")
        assert (tmp_path / "one").read_text() == "old"
        assert not (tmp_path / "two").exists()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"one": "new", "two": "new"}


@pytest.mark.usefixtures("calls")
def test_what_appears_meanwhile_stops_all_of_the_set(tmp_path: Path) -> None:
    outputs = Outputs()
    for name in ("one", "two"):
        outputs.write(tmp_path / name, b"new")
    (tmp_path / "two").write_text("mine")
    with pytest.raises(UsageError, match="two was made by somebody else meanwhile"), outputs:
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"two": "mine"}


@pytest.mark.usefixtures("calls")
def test_a_rename_that_fails_takes_the_others_back(tmp_path: Path) -> None:
    """The last target becomes a folder meanwhile, which a file cannot replace."""
    (tmp_path / "one").write_text("old")
    outputs = Outputs(force=True)
    for name in ("one", "two", "three"):
        outputs.write(tmp_path / name, b"new")
    (tmp_path / "three" / "mine").mkdir(parents=True)
    with pytest.raises(SystemFailure), outputs:
        pass
    assert (tmp_path / "one").read_text() == "old"
    assert not (tmp_path / "two").exists()
    assert (tmp_path / "three" / "mine").is_dir()


@pytest.mark.usefixtures("calls")
def test_two_names_are_exchanged(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    exchange(one, two)
    assert (one.read_text(), two.read_text()) == ("2", "1")
    with pytest.raises(FileExistsError):
        rename_new(one, two)
    rename_new(one, tmp_path / "three")
    (tmp_path / "f").mkdir()
    (tmp_path / "g" / "inner").mkdir(parents=True)
    exchange(tmp_path / "f", tmp_path / "g")
    assert (tmp_path / "f" / "inner").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "g", "three", "two"]


@pytest.mark.usefixtures("calls")
def test_a_replaced_folder_keeps_what_is_the_users(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    with open_checkpoint(folder) as checkpoint:
        write_checkpoint(tmp_path / "out", checkpoint, checkpoint.read_raw, metadata={"rebasin.x": "1"})
        out = tmp_path / "out"
        (out / "notes").mkdir()
        (out / "notes" / "deep.txt").write_text("mine")
        (out / "link").symlink_to("notes")
        (out / "config.json").chmod(0o600)
        out.chmod(0o700)

        def read(key: str) -> torch.Tensor:
            shards = {path.read_bytes() for path in out.glob("*.safetensors")}
            assert len(shards) == 2  # both are the old ones until the end
            assert all(b'"rebasin.x":"1"' in shard for shard in shards)
            return checkpoint.read_raw(key)

        write_checkpoint(out, checkpoint, read, metadata={"rebasin.x": "2"}, force=True)
    assert (out / "notes" / "deep.txt").read_text() == "mine"
    assert (out / "link").readlink() == Path("notes")
    assert (out.stat().st_mode & 0o777, (out / "config.json").stat().st_mode & 0o777) == (0o700, 0o600)
    assert open_checkpoint(out).metadata["rebasin.x"] == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out"]


def test_a_temporary_that_vanishes(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    with open_checkpoint(folder) as checkpoint:
        last = list(checkpoint)[-1]

        def read(key: str) -> torch.Tensor:
            if key == last:
                shutil.rmtree(partial_path(tmp_path / "out"))
            return checkpoint.read_raw(key)

        for vanish in (read, _removing_a_shard(checkpoint, tmp_path / "out", last)):
            with pytest.raises(SystemFailure, match="cannot write"):
                write_checkpoint(tmp_path / "out", checkpoint, vanish, metadata={})
    outputs = Outputs()
    outputs.write(tmp_path / "one", b"new")
    partial_path(tmp_path / "one").unlink()
    with pytest.raises(SystemFailure, match="taken away"), outputs:
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def _removing_a_shard(checkpoint: object, out: Path, last: str):  # type: ignore[no-untyped-def]
    def read(key: str) -> torch.Tensor:
        if key == last:
            (partial_path(out) / "model-00001-of-00002.safetensors").unlink()
        return checkpoint.read_raw(key)  # type: ignore[attr-defined, no-any-return]

    return read


HOLD = """
import sys, time
from pathlib import Path
from rebasin_cli.checkpoints.outputs import Outputs
outputs = Outputs()
outputs.claim(Path(sys.argv[1]))
with outputs.file(Path(sys.argv[1])) as file:
    file.write(b"half")
    print("ready", flush=True)
    time.sleep(600)
"""


def test_only_temporaries_of_dead_runs_are_removed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "one")], stdout=subprocess.PIPE, cwd=ROOT, env=environment()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    with pytest.raises(SystemFailure, match="another run of rebasin is writing"):
        Outputs().claim(tmp_path / "one")
    with Outputs() as outputs:
        outputs.claim(tmp_path / "beside")
    assert partial_path(tmp_path / "one").read_bytes() == b"half"
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(list(tmp_path.iterdir())) == 2  # the lock and the temporary
    with Outputs() as outputs:
        outputs.claim(tmp_path / "beside")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_put_aside_comes_back(tmp_path: Path) -> None:
    """What a kill leaves where two names cannot be exchanged at once."""
    partial = partial_path(tmp_path / "out")
    aside = partial.with_name(partial.name + ASIDE)
    aside.mkdir()
    (aside / "notes").write_text("mine")
    partial.mkdir()
    lock_path(tmp_path / "out").touch()
    clean_leftovers(tmp_path)
    assert (aside / "notes").exists()
    lock = Lock(tmp_path / "out")
    lock.acquire()
    lock.release()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "notes").read_text() == "mine"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    lock_path(tmp_path / "one").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemFailure):
        Outputs().claim(tmp_path / "one")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with Outputs() as outputs:
        outputs.write(tmp_path / "one", b"new")
    assert (tmp_path / "one").read_bytes() == b"new"
    partial_path(tmp_path / "two").write_bytes(b"of whom?")
    with pytest.raises(SystemFailure), Outputs() as outputs:
        outputs.write(tmp_path / "two", b"new")


class _Ended(BaseException):
    """What a signal becomes."""


def _write_under_signal(folder: Path, at: int) -> bool:
    """Write two files and a folder, with SIGTERM at the `at`-th call or return; whether it came."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        if frame.f_code.co_filename.endswith(("outputs.py", "places.py", "rebasin_cli/files.py")):
            count += 1
            if count == at:
                signal.raise_signal(signal.SIGTERM)

    sys.setprofile(profile)
    try:
        with Outputs(force=True) as outputs:
            outputs.write(folder / "one", b"new")
            with outputs.folder(folder / "two", {"weights"}) as made, new_file(made / "weights") as out:
                out.write(b"new")
            outputs.write(folder / "three", b"new")
    except _Ended:
        return True
    finally:
        sys.setprofile(None)
    return False


def test_a_signal_at_any_operation(tmp_path: Path) -> None:
    def end(number: int, frame: FrameType | None) -> None:
        raise _Ended

    before = signal.signal(signal.SIGTERM, end)
    gc.freeze()  # what is there already is not looked through after every signal
    try:
        at, ended = 0, True
        while ended:
            at += 1
            folder = tmp_path / str(at)
            (folder / "two").mkdir(parents=True)
            names = [folder / name for name in ("one", "two/weights", "three")]
            for path in names:
                path.write_bytes(b"old")
            try:
                ended = _write_under_signal(folder, at)
            except _Ended:  # at the last of all, outside the block
                ended = True
            gc.collect()
            assert len({path.read_bytes() for path in names}) == 1, f"at {at}"
            assert sorted(os.listdir(folder)) == ["one", "three", "two"], f"at {at}"
    finally:
        gc.unfreeze()
        signal.signal(signal.SIGTERM, before)
    assert at > 100


def test_a_lock_of_another_user(tmp_path: Path) -> None:
    """It may be read and not written: the run that left it is dead, and its lock can be had all the same."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    folder = tmp_path / "open"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    lock_path(folder / "out").write_bytes(b"")
    lock_path(folder / "out").chmod(0o644)
    partial_path(folder / "out").write_bytes(b"half")
    done = run_python(
        """
        from rebasin_cli.checkpoints.outputs import Outputs
        become_nobody_in(sys.argv[1])
        with Outputs() as outputs:
            outputs.write(Path("out"), b"new")
        """,
        folder,
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == ["out"]


def test_locks_are_asked_for_as_nfs_needs_it(tmp_path: Path) -> None:
    """NFS makes a lock of flock that only a file open for writing can have."""
    lock = Lock(tmp_path / "out")
    lock.acquire()
    assert lock.descriptor is not None
    assert fcntl.fcntl(lock.descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    lock.release()
