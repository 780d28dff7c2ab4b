"""One lock for each output, and the removal of what killed runs have left.

The lock is an empty file `.NAME.rebasin-lock` next to the output, held with flock: the system releases it however
the process ends. So a temporary file whose lock is free belongs to no living run, and may be removed.

Renames that plain `rename` cannot do are here as well: two names exchanged, and a name taken only while it is free.
Linux has renameat2 for both and macOS has renamex_np. Where neither is there, or the file system does not know the
flags (NFS), there are ways with several steps, and what they leave if a run is killed between them is removed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rebasin_cli.errors import SystemFailure, system_failure
from rebasin_cli.safe_text import shell_word

LOCK = ".rebasin-lock"
PARTIAL = ".rebasin-partial"
_NAME_LIMIT = 200  # bytes of the output's name in that of the lock: file systems allow 255 in all
_NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


@dataclass(slots=True)
class Lock:
    """The right to write one place, from `acquire` to `release`.

    Attributes:
        descriptor: of the lock's file, while it is held.
        sure: False on a file system without locks, where a living run looks like a dead one.
    """

    place: Path
    descriptor: int | None = None
    sure: bool = True

    def acquire(self) -> None:
        """Take the lock, and remove what a killed run left of the output.

        Raises:
            SystemFailure: another run holds it, or the lock cannot be created.
        """
        if not self.take(lock_path(self.place), create=True):
            raise SystemFailure(
                f"another run of rebasin is writing {self.place}",
                remedy="wait until it has ended, or choose another output",
            )
        if self.sure:
            clean(self.place)
        elif os.path.lexists(partial := partial_path(self.place)):
            self.release()
            raise SystemFailure(
                f"cannot write {self.place}: {partial} is there, of a run that was killed or is still writing",
                remedy=f"this disk has no locks to tell; if no other run writes it: rm -r {shell_word(str(partial))}",
            )

    def take(self, path: Path, *, create: bool) -> bool:
        """Try once; False if another one has it (or it is not there and should not be made)."""
        while True:
            try:
                self.descriptor = _open(path, create=create)
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError as error:
                if create:
                    raise system_failure(error, self.place, "write") from error
                return False
            except OSError as error:
                if self.descriptor is None:
                    raise system_failure(error, path, "write") from error
                if error.errno in _NO_LOCKS:
                    self.sure = False
                    return True
                self.close()
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    return False
                raise system_failure(error, path, "write") from error
            if _same(self.descriptor, path):
                return True
            self.close()  # its holder removed it between our two calls

    def release(self) -> None:
        """Release the lock. Its file is removed while the lock is held, so that no run locks a removed file."""
        if self.descriptor is not None:
            with suppress(OSError):
                lock_path(self.place).unlink()
        self.close()

    def close(self) -> None:
        """Release the lock, and keep its file."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def lock_path(place: Path) -> Path:
    """The lock's file."""
    return _hidden(place, LOCK)


def partial_path(place: Path) -> Path:
    """The temporary name under which `place` is written."""
    return _hidden(place, PARTIAL)


def clean_leftovers(folder: Path) -> None:
    """Remove everything in a folder that belongs to dead runs, as far as it can be removed.

    A folder that was put aside waits for the next run that writes it, which knows its name.
    """
    with suppress(OSError):
        names = [name for name in os.listdir(folder) if name.startswith(".") and name.endswith(LOCK)]
        for name in names:
            lock = Lock(folder / name[1 : -len(LOCK)])
            with suppress(SystemFailure):
                if lock.take(folder / name, create=False):
                    if lock.sure and not os.path.lexists(folder / (name[: -len(LOCK)] + PARTIAL + ASIDE)):
                        clean(lock.place)
                        lock.release()
                    lock.close()


def remove(path: Path) -> None:
    """Remove a file or a folder, whatever is there; a link is not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _open(path: Path, *, create: bool) -> int:
    """The lock's file: for writing, without which NFS locks nothing, or for reading if it is another user's."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, os.O_RDWR | flags | (os.O_CREAT if create else 0), 0o644)
    except PermissionError:
        return os.open(path, os.O_RDONLY | flags)


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def clean(place: Path) -> None:
    """Remove the temporary; a folder that was moved aside and not restored gets its name again."""
    partial = partial_path(place)
    aside = partial.with_name(partial.name + ASIDE)
    if os.path.lexists(aside):
        if os.path.lexists(place):
            remove(aside)
        else:
            with suppress(OSError):
                aside.rename(place)
    remove(partial)


def _hidden(place: Path, ending: str) -> Path:
    name = place.name
    raw = os.fsencode(name)
    if len(raw) > _NAME_LIMIT:
        cut = raw[: _NAME_LIMIT - 17].decode(errors="ignore")
        name = f"{cut}-{hashlib.sha256(raw).hexdigest()[:16]}"
    return place.with_name(f".{name}{ending}")


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
