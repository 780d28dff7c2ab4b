"""A set of outputs that appears as a whole: all are written under temporary names and renamed at the end.

An error before that, an interrupt included, removes the temporaries and leaves the targets as they were. A rename
that fails undoes those before it. Only a kill between two renames can leave a mixed set, and the hashes in the files
show that (`pipeline/same_run.py`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, cast

from rebasin_cli.checkpoints.places import (
    LOCK,
    PARTIAL,
    Lock,
    check_file_target,
    clean_leftovers,
    partial_path,
    remove,
    resolve_target,
)
from rebasin_cli.errors import SystemFailure, UsageError, system_failure
from rebasin_cli.files import exchange, new_file, rename_new, sync_folder, take_mode
from rebasin_cli.process import signals_deferred


@dataclass(slots=True)
class _Staged:
    """One output under its temporary name.

    Attributes:
        names: of the files of a folder, relative to it; None for a file.
        replaces: whether what is there may be replaced.
        status: of the complete temporary; it identifies the new file after an exchange.
    """

    target: Path
    place: Path
    temporary: Path
    names: frozenset[str] | None
    replaces: bool
    status: os.stat_result

    def check(self) -> None:
        """Check that the temporary is what was written, and that the target is free or may be replaced."""
        written = [self.temporary] if self.names is None else [self.temporary / name for name in self.names]
        there = _is(self.temporary, self.status) and all(path.is_file() for path in written)
        if not there:
            raise SystemFailure(
                f"cannot write {self.target}: {self.temporary} was taken away or changed by another program",
                remedy="run again when nothing else works in that folder",
            )
        if not self.replaces and _taken(self.place, folder=self.names is not None):
            raise _exists(self.target)

    def put(self) -> None:
        """Give it its name; what was there has the temporary one afterwards."""
        if not os.path.lexists(self.place) or not _taken(self.place, folder=self.names is not None):
            if self.names is not None:
                self.temporary.rename(self.place)  # an empty folder is replaced, another one refused by the system
            else:
                rename_new(self.temporary, self.place)
            return
        if not self.replaces:
            raise FileExistsError
        if self.names is None and not self.place.is_file():  # what is replaced is removed, and this was not asked about
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if self.names is not None and not self.place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if self.names is not None:
            _carry(self.place, self.temporary)
        exchange(self.temporary, self.place)

    def take_back(self) -> None:
        """Undo `put`, as far as it came."""
        if not _is(self.place, self.status):
            return
        if os.path.lexists(self.temporary):
            exchange(self.temporary, self.place)
        else:
            self.place.rename(self.temporary)

    def finish(self) -> None:
        """Remove what was replaced, except for files added to the old folder in the last moment."""
        if self.names is not None and self.temporary.is_dir():
            _carry(self.temporary, self.place)
        remove(self.temporary)
        sync_folder(self.place.parent)


class Outputs:
    """Everything that one run writes. As a context it commits at the end, or changes nothing.

    Attributes:
        force: whether what exists may be replaced.
        hashes: sha256 of what was written, by absolute path; that of a folder is told by who fills it.
    """

    def __init__(self, *, force: bool = False, ours: Collection[Path] = ()) -> None:
        """`ours`: files that an earlier part of the same run left, which may be replaced without `force`."""
        self.force = force
        self.hashes: dict[Path, str] = {}
        self._ours = {resolve_target(path) for path in ours}
        self._locks: dict[Path, Lock] = {}
        self._staged: list[_Staged] = []
        # A signal may come before the first line of __exit__: then this cleans up when the object goes.
        self._net = weakref.finalize(self, _clean_up, self._staged, self._locks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with signals_deferred():
            try:
                if kind is None:
                    self.commit()
            finally:
                _clean_up(self._staged, self._locks)
        self._net.detach()

    def claim(self, *targets: Path) -> None:
        """Lock targets and clean the folders that they lie in, before the work that makes their contents.

        Raises:
            SystemFailure: another run is writing one of them.
        """
        places = [resolve_target(target) for target in targets]
        for place in places:
            self._lock(place)
        with signals_deferred():
            for folder in {place.parent for place in places}:
                clean_leftovers(folder)

    @contextmanager
    def file(self, target: Path, *, at_once: bool = False) -> Iterator[BinaryIO]:
        """An unbuffered file to write to, which becomes `target` with the others.

        Args:
            at_once: it does so when the block ends, and may be written again by this run.
        """
        place, temporary = self._begin(target)
        with _removed_on_failure(temporary, target):
            with new_file(temporary, like=place) as file:
                hashed = HashedFile(file)
                yield cast(BinaryIO, hashed)
                status = os.fstat(file.fileno())
            self.hashes[target.absolute()] = hashed.sha256
            self._staged.append(_Staged(target, place, temporary, None, self._replaces(place), status))
        if at_once:
            with signals_deferred():
                entry = self._staged.pop()
                try:
                    _commit([entry])
                finally:
                    remove(temporary)
                self._ours.add(place)

    def write(self, target: Path, data: bytes, *, at_once: bool = False) -> None:
        """Write a small file that is whole in memory."""
        with self.file(target, at_once=at_once) as out:
            view = memoryview(data)
            while view:  # the file is unbuffered and may take less than it is offered
                view = view[out.write(view) :]

    @contextmanager
    def folder(self, target: Path, names: Collection[str]) -> Iterator[Path]:
        """A folder to fill with files of these names (`new_file`), which becomes `target` with the others.

        What else lies in a folder that is replaced, such as notes of the user's own, is carried over.
        """
        place, temporary = self._begin(target)
        with _removed_on_failure(temporary, target):
            temporary.mkdir()
            take_mode(temporary, place)
            yield temporary
            for path in sorted(temporary.rglob("*"), reverse=True):
                if path.is_dir():
                    sync_folder(path)
            sync_folder(temporary)
            self._staged.append(
                _Staged(target, place, temporary, frozenset(names), self._replaces(place), temporary.stat())
            )

    def commit(self) -> None:
        """Rename everything that was written, in that order.

        Raises:
            UsageError: something has appeared under a target's name, and may not be replaced.
            SystemFailure: a temporary has vanished, or a rename failed; nothing is renamed then.
        """
        if self._staged:
            _commit(self._staged)
        self._staged.clear()

    def _begin(self, target: Path) -> tuple[Path, Path]:
        place = resolve_target(target)
        self._lock(place)
        return place, partial_path(place)

    def _lock(self, place: Path) -> None:
        if place not in self._locks:
            lock = Lock(place)
            with signals_deferred():
                lock.acquire()
                self._locks[place] = lock

    def _replaces(self, place: Path) -> bool:
        return self.force or place in self._ours


class HashedFile:
    """An unbuffered file, and the sha256 of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def write(self, data: memoryview) -> int:
        taken = self._file.write(data)
        self._digest.update(data[:taken])
        return taken

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._digest.hexdigest()


@contextmanager
def replacing_file(target: Path) -> Iterator[BinaryIO]:
    """An unbuffered file to write to, which replaces `target` when the block ends without an exception."""
    with Outputs(force=True) as outputs, outputs.file(target) as file:
        yield file


def save_file(target: Path, data: bytes, *, force: bool) -> Path:
    """Write one small file, and return where it is.

    Raises:
        UsageError, SystemFailure: as `check_file_target`; or it cannot be written.
    """
    check_file_target(target, force=force)
    with Outputs(force=force) as outputs:
        outputs.write(target, data)
    return target


def _clean_up(staged: list[_Staged], locks: dict[Path, Lock]) -> None:
    """Remove the temporaries and release the locks; may be called again after an interrupt."""
    with signals_deferred():
        while staged:
            remove(staged[-1].temporary)
            staged.pop()
        while locks:
            place, lock = next(iter(locks.items()))
            if lock.sure:
                remove(partial_path(place))
            lock.release()
            locks.pop(place)


def _commit(staged: list[_Staged]) -> None:
    for entry in staged:
        entry.check()
    tried: list[_Staged] = []
    entry = staged[0]
    try:
        for entry in staged:
            tried.append(entry)
            entry.put()
    except BaseException as error:
        for done in reversed(tried):
            with suppress(OSError):
                done.take_back()
        if isinstance(error, FileExistsError):
            raise _exists(entry.target) from None
        if isinstance(error, OSError):
            raise system_failure(error, entry.target, "write") from error
        raise
    for entry in staged:
        entry.finish()


def _exists(target: Path) -> UsageError:
    return UsageError(
        f"{target} was made by somebody else meanwhile, and is left as it is",
        remedy="choose another output, or replace it with --force",
    )


def _taken(place: Path, *, folder: bool) -> bool:
    """Whether something is there; an empty folder is as good as none where a folder is to be."""
    if folder and place.is_dir():
        return any(place.iterdir())
    return os.path.lexists(place)


def _is(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), status)
    except OSError:
        return False


def _carry(old: Path, new: Path) -> None:
    """Carry over files that only the old folder has, by hard links or else copies."""
    for entry in sorted(old.iterdir()):
        other = new / entry.name
        if entry.name.startswith(".") and entry.name.endswith((LOCK, PARTIAL)):
            continue
        if entry.is_dir() and not entry.is_symlink():
            if not os.path.lexists(other):
                other.mkdir()
                shutil.copystat(entry, other)
            if other.is_dir() and not other.is_symlink():
                _carry(entry, other)
        elif not os.path.lexists(other):
            try:
                os.link(entry, other, follow_symlinks=False)
            except OSError:
                shutil.copy2(entry, other, follow_symlinks=False)


@contextmanager
def _removed_on_failure(temporary: Path, target: Path) -> Iterator[None]:
    """Take the temporary away if the block fails; what the system said becomes a SystemFailure about `target`."""
    try:
        yield
    except OSError as error:
        remove(temporary)
        raise system_failure(error, target, "write") from error
    except BaseException:
        remove(temporary)
        raise
