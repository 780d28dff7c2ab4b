"""Renames that plain `rename` cannot do: two names exchanged, and a name taken only while it is free.

Linux has renameat2 for both and macOS has renamex_np. Where neither is there, or the file system does not know the
flags (NFS), there are ways with several steps; `locking.py` cleans up if a run is killed between them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

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
