"""Small files, read whole: specs, configurations, documents, texts, images; new files, on the disk when they end, and
how they get their names.

Whoever hands us a file may have put anything under its name. A pipe would be waited for, a device has no end, and a
few megabytes of JSON can fill the memory. So only regular files are opened, each kind has a limit, and JSON may hold
a limited number of values. Errors are told here; large files are read piece by piece in `checkpoints`.

Two renames are more than plain `rename` can do: two names exchanged, and a name taken only while it is free. Linux has
renameat2 for both and macOS has renamex_np. Where neither is there, or the file system does not know the flags (NFS),
there are ways with several steps; `checkpoints/places.py` removes what a kill between them leaves.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from rebasin_cli.errors import ContentError, SystemFailure, human_bytes, system_failure

MAX_VALUES = 2_500_000
"""Values of a JSON text: the header of 100,000 tensors has a million. Each takes up to 100 bytes of memory."""

_SAVE_FIRST = "name a file; save what comes through a pipe first: COMMAND > FILE"


def open_regular(path: Path, remedy: str = _SAVE_FIRST) -> int:
    """A descriptor to read from, of a regular file only: never waits for a pipe, never reads a device.

    Args:
        remedy: what to do with a pipe.
    Raises:
        OSError: it cannot be opened. SystemFailure: it is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | getattr(os, "O_NOCTTY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise not_regular(path, mode, remedy)
    return descriptor


def not_regular(path: Path, mode: int, remedy: str = _SAVE_FIRST) -> SystemFailure:
    """The error for what is neither a file nor, where one is expected, a folder."""
    if stat.S_ISDIR(mode):
        return SystemFailure(f"cannot read {path}: it is a folder", remedy="name a file")
    kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
    return SystemFailure(f"cannot read {path}: it is not a regular file but a {kind}", remedy=remedy)


def read_bytes(path: Path, limit: int, remedy: str = "check that it is the right file") -> bytes:
    """A whole file.

    Args:
        limit: the bytes that a file of its kind may have; remedy: what to do if it has more.
    Raises:
        SystemFailure: it cannot be read, or is no regular file. ContentError: it has more than `limit` bytes.
    """
    try:
        with open(open_regular(path), "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise system_failure(error, path, "read") from error
    if len(data) > limit:
        raise ContentError(
            f"{path.name} has more than {human_bytes(limit)}, which a file of its kind does not need",
            where=str(path), remedy=remedy,
        )  # fmt: skip
    return data


def sha256_of(path: Path) -> str:
    """Of a file of any size, in hexadecimal.

    Raises:
        SystemFailure: it cannot be read, or is no regular file.
    """
    try:
        with open(open_regular(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise system_failure(error, path, "read") from error


def read_text(path: Path, limit: int, what: str, remedy: str) -> str:
    """A whole text file, in UTF-8.

    Args:
        what: it should be, with its article, for messages ("a run document").
    Raises:
        SystemFailure, ContentError: as `read_bytes`; or it is no text.
    """
    data = read_bytes(path, limit, remedy)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ContentError(
            f"{path.name} is not {what}: byte {error.start} is not UTF-8", where=str(path), remedy=remedy
        ) from None


def read_json(path: Path, limit: int, remedy: str = "download or restore the file") -> Any:
    """A small JSON file.

    Raises:
        SystemFailure, ContentError: as `read_bytes`; or it is not JSON.
    """
    try:
        return parse_json(read_bytes(path, limit, remedy))
    except ValueError as error:
        raise ContentError(f"{path.name} is not JSON: {error}", where=str(path), remedy=remedy) from None


def parse_json(text: bytes | str, **options: Any) -> Any:
    """The value of a JSON text; `options` are those of `json.loads`.

    Raises:
        ValueError: not JSON, nested too deeply, or with too many values.
    """
    counts = map(text.count, (b",", b"[", b"{")) if isinstance(text, bytes) else map(text.count, (",", "[", "{"))
    if sum(counts) > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES:,} values")
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@contextmanager
def new_file(path: Path, *, like: Path | None = None) -> Iterator[BinaryIO]:
    """An unbuffered file that did not exist before, flushed to the disk at the end; errors are OSErrors.

    Args:
        like: a file whose mode and owner it takes over before anything is in it, if that is there.
    """
    # O_EXCL and 0o666: nobody else's file, and the mode that the umask leaves (mkstemp's would be 0600).
    exists = like is not None and like.is_file()
    mode = 0o600 if exists else 0o666
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        if exists and like is not None:
            take_mode(path, like)
        yield file
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power failure, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def take_mode(path: Path, like: Path) -> None:
    """Give a new file the owner and the mode of the one that it will replace, as far as we may."""
    try:
        status = like.stat()
    except FileNotFoundError:
        return
    with suppress(OSError):
        os.chown(path, status.st_uid, status.st_gid)
    path.chmod(stat.S_IMODE(status.st_mode) & 0o777)


_AT_FDCWD = -100
_LINUX = {"new": 1, "exchange": 2}  # RENAME_NOREPLACE, RENAME_EXCHANGE
_MACOS = {"new": 4, "exchange": 2}  # RENAME_EXCL, RENAME_SWAP
_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
ASIDE = ".aside"
"""Ending of the name that a folder has for a moment where two names cannot be exchanged at once."""


def exchange(one: Path, other: Path) -> None:
    """Exchange two existing names, atomically where the system can."""
    if _rename(one, other, "exchange"):
        return
    aside = one.with_name(one.name + ASIDE)
    if other.is_dir():
        other.rename(aside)
        try:
            one.rename(other)
        except BaseException:
            aside.rename(other)
            raise
    else:
        try:
            os.link(other, aside)
        except OSError:  # no hard links: the old content cannot be kept, and `one` is gone afterwards
            one.replace(other)
            return
        one.replace(other)
    aside.rename(one)


def rename_new(one: Path, other: Path) -> None:
    """Rename a file if the other name is free.

    Raises:
        FileExistsError: it is taken.
    """
    if _rename(one, other, "new"):
        return
    try:
        os.link(one, other)
    except FileExistsError:
        raise
    except OSError:  # no hard links either: the moment between the question and the rename stays open
        if os.path.lexists(other):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(other)) from None
        one.rename(other)
    else:
        one.unlink()


def _rename(one: Path, other: Path, how: str) -> bool:
    """Whether the system did it; False if it has no such call."""
    call = _system_call()
    if call is None:
        return False
    number = call(os.fsencode(one), os.fsencode(other), how)
    if number in _UNKNOWN:
        return False
    if number:
        raise OSError(number, os.strerror(number), str(one), None, str(other))
    return True


@cache
def _system_call() -> Callable[[bytes, bytes, str], int] | None:
    """(from, to, how) → errno, 0 if it was done; None on systems without such a call."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        swap = library.renamex_np
        swap.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint)
        return lambda one, other, how: ctypes.get_errno() if swap(one, other, _MACOS[how]) else 0
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        rename = library.renameat2
        rename.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        return lambda one, other, how: (
            ctypes.get_errno() if rename(_AT_FDCWD, one, _AT_FDCWD, other, _LINUX[how]) else 0
        )
    return None
