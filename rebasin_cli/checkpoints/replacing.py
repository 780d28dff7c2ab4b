"""Whether an output may be written: checked before any work, without changing anything."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import SystemFailure, UsageError, human_bytes, system_failure
from rebasin_cli.safe_text import shell_word

_HEADER_ALLOWANCE = 256  # bytes of header for each tensor, when looking whether the disk has room


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
