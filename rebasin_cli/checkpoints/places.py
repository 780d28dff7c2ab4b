"""The place of an output: whether it may be written, and the lock that keeps other runs from it meanwhile.

Whether it may is checked before any work, without changing anything.

The lock is an empty file `.NAME.rebasin-lock` next to the output, held with flock: the system releases it however
the process ends. So a temporary file whose lock is free belongs to no living run, and may be removed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import SystemFailure, UsageError, human_bytes, system_failure
from rebasin_cli.files import ASIDE
from rebasin_cli.safe_text import shell_word

_HEADER_ALLOWANCE = 256  # bytes of header for each tensor, when looking whether the disk has room

LOCK = ".rebasin-lock"
PARTIAL = ".rebasin-partial"
_NAME_LIMIT = 200  # bytes of the output's name in that of the lock: file systems allow 255 in all
_NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


def resolve_target(target: Path) -> Path:
    """The place that writing to `target` changes: a symbolic link is followed."""
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def check_file_target(target: Path, *, force: bool) -> None:
    """Check that `target` can become a file, without changing anything.

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
    """Check that `target` can become a folder with files of these names, without changing anything.

    An existing folder is exchanged for the new one, which takes over files of the user's own. Weights of another model
    in it would be mixed with ours, so those stop it even with `force`.

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
    if os.path.ismount(place):  # it can be filled, but not exchanged
        raise UsageError(f"{target} is a mount point", remedy=f"name a folder inside it, such as {target / 'model'}")
    _check_parent(place, target)


def check_space(place: Path, needed: int, tell: Callable[[str], None] | None = None) -> None:
    """Check that the disk below `place` (which need not exist) has `needed` bytes free.

    Args:
        tell: is told what a run would be refused for, where nothing is to be written now (`--dry-run`).

    Raises:
        SystemFailure: it has not. A file system that reports nothing is taken to have enough.
    """
    folder = next((p for p in (place, *place.parents) if p.is_dir()), Path())
    try:
        status = os.statvfs(folder)
    except OSError:
        return
    free = status.f_bavail * status.f_frsize
    if status.f_blocks and free < needed:
        what = f"cannot write {place}: {human_bytes(needed)} are needed and {human_bytes(free)} are free on the disk"
        remedy = "free some space or write to another disk with -o"
        if tell is None:
            raise SystemFailure(what, remedy=remedy)
        tell(f"{what}; {remedy}")


def check_target(target: Path, source: Checkpoint, *, force: bool = False) -> None:
    """Whether a checkpoint like `source` could be written there, room on the disk apart (`check_space`).

    Raises:
        UsageError: the target exists and `force` is not given, or is of the wrong kind.
        SystemFailure: its folder is absent or not writable.
    """
    if source.is_folder:
        check_folder_target(target, file_names(source), force=force)
    else:
        check_file_target(target, force=force)


def needed_bytes(source: Checkpoint) -> int:
    """What a checkpoint like `source` takes on the disk, generously."""
    companions = sum(path.stat().st_size for path in source.companions) if source.is_folder else 0
    return source.nbytes + _HEADER_ALLOWANCE * len(source) + companions


def file_names(source: Checkpoint) -> set[str]:
    """The files of a folder that is written like a checkpoint."""
    names = {shard.name for shard in source.shards} | {path.name for path in source.companions}
    return names | {source.index.name} if source.index is not None else names


def _check_parent(place: Path, target: Path) -> None:
    parent = place.parent
    if not parent.is_dir():
        raise SystemFailure(
            f"cannot write {target}: there is no folder {parent}",
            remedy=f"make the folder first: mkdir -p {shell_word(str(parent))}",
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise SystemFailure(
            f"cannot write {target}: the folder {parent} is not writable",
            remedy="check its permissions, or write elsewhere with -o",
        )


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
