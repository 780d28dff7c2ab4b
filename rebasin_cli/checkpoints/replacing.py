"""Outputs that appear whole or not at all.

A file is written under another name beside its target, flushed to the disk and renamed; whatever goes wrong before
that, an interrupt included, takes the other name away again and leaves the target as it was.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rebasin_cli.checkpoints.failures import human_bytes, system_failure
from rebasin_cli.errors import SystemFailure, UsageError

_NAME_LIMIT = 200  # bytes of the target's name in the temporary one: file systems allow 255 in all


def resolve_target(target: Path) -> Path:
    """Where writing to `target` ends up: a symbolic link is written through to what it points at."""
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def check_file_target(target: Path, *, force: bool) -> None:
    """See that `target` can become a file, without touching anything.

    Raises:
        UsageError: it exists and `force` is not given, or it is something that must not be replaced.
        SystemFailure: its folder is absent or not writable.
    """
    place = resolve_target(target)
    _check_parent(place, target)
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise system_failure(error, target, "write") from error
    if stat.S_ISDIR(mode):
        raise UsageError(f"{target} is a folder", remedy=f"name a file, such as {target / 'model.safetensors'}")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{target} is not a regular file", remedy="name a file; a pipe is written with -o -")
    if not force:
        raise UsageError(f"{target} exists already", remedy="choose another output, or replace it with --force")


def check_folder_target(target: Path, names: set[str], *, force: bool) -> None:
    """See that `target` can become a folder with files of these names, without touching anything.

    An existing folder is filled and never removed: files of the user's own in it stay. Weights of another model in
    it would be mixed with ours, so those stop it even with `force`.

    Raises:
        UsageError, SystemFailure: as for a file.
    """
    place = resolve_target(target)
    try:
        present = {entry.name for entry in place.iterdir()}
    except FileNotFoundError:
        _check_parent(place, target)
        return
    except NotADirectoryError:
        raise UsageError(
            f"{target} is a file, and the checkpoint is a folder", remedy="name a folder that does not exist yet"
        ) from None
    except OSError as error:
        raise system_failure(error, target, "write") from error
    if present and not force:
        raise UsageError(f"{target} exists already", remedy="choose another output, or replace it with --force")
    others = sorted(n for n in present - names if n.endswith((".safetensors", ".safetensors.index.json")))
    if others:
        raise UsageError(
            f"{target} has weights that would be mixed with the new ones: {', '.join(others[:4])}",
            remedy="remove them, or choose another output",
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise SystemFailure(f"cannot write into {target}: permission denied", remedy="check the folder's permissions")


def check_space(place: Path, needed: int) -> None:
    """See that the disk below `place` (which need not exist) has `needed` bytes free.

    Raises:
        SystemFailure: it has not. A file system that does not tell is believed to have enough.
    """
    folder = next((p for p in (place, *place.parents) if p.is_dir()), Path())
    try:
        status = os.statvfs(folder)
    except OSError:
        return
    free = status.f_bavail * status.f_frsize
    if status.f_blocks and free < needed:
        raise SystemFailure(
            f"cannot write {place}: {human_bytes(needed)} are needed and {human_bytes(free)} are free on the disk",
            remedy="free some space or write to another disk with -o",
        )


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """An unbuffered file that did not exist before, flushed to the disk at the end; errors are OSErrors."""
    # O_EXCL and 0o666: nobody else's file, and the mode that the umask leaves (mkstemp's would be 0600).
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        yield file
        os.fsync(file.fileno())


@contextmanager
def replacing_file(target: Path) -> Iterator[BinaryIO]:
    """An unbuffered file to write to, which becomes `target` when the block ends without an exception."""
    place = resolve_target(target)
    temporary = _temporary(place)
    try:
        with new_file(temporary) as file:
            yield file
        temporary.replace(place)
    except OSError as error:
        _remove(temporary)
        raise system_failure(error, target, "write") from error
    except BaseException:
        _remove(temporary)
        raise
    sync_folder(place.parent)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends without an exception.

    A target that is not there yet is made by one rename. One that is there gets the files one after the other by
    renames, the index of its shards last.
    """
    place = resolve_target(target)
    exists = place.is_dir()
    temporary = _temporary(place / "new") if exists else _temporary(place)
    try:
        temporary.mkdir()
        yield temporary
        _sync_folders(temporary)
        if exists:
            _move_contents(temporary, place)
        else:
            temporary.rename(place)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise system_failure(error, target, "write") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(place if exists else place.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power failure, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_folders(top: Path) -> None:
    for folder in (top, *(path for path in top.rglob("*") if path.is_dir())):
        sync_folder(folder)


def _check_parent(place: Path, target: Path) -> None:
    parent = place.parent
    if not parent.is_dir():
        raise SystemFailure(
            f"cannot write {target}: there is no folder {parent}", remedy=f"make the folder first: mkdir -p {parent}"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise SystemFailure(
            f"cannot write {target}: the folder {parent} is not writable",
            remedy="check its permissions, or write elsewhere with -o",
        )


def _temporary(place: Path) -> Path:
    name = place.name.encode()[:_NAME_LIMIT].decode(errors="ignore")
    return place.with_name(f".{name}.{secrets.token_hex(8)}.partial")


def _remove(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink()


def _move_contents(temporary: Path, place: Path) -> None:
    made = [path for path in temporary.rglob("*") if path.is_file()]
    for path in sorted(made, key=lambda path: (path.name.endswith(".index.json"), path)):
        moved = place / path.relative_to(temporary)
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.replace(moved)
    shutil.rmtree(temporary)
