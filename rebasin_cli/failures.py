"""What the operating system said, in the three parts of our errors.

One table from errno to advice, so that reading and writing speak alike.
"""

from __future__ import annotations

import errno
from pathlib import Path

from rebasin_cli.errors import SystemFailure
from rebasin_cli.safe_text import shell_word

_ADVICE = {
    errno.EACCES: ("permission denied", "check the permissions of the file and its folder, or run as their owner"),
    errno.EPERM: ("not permitted", "check the permissions of the file and its folder, or run as their owner"),
    errno.ENOSPC: ("the disk is full", "free some space or write to another disk with -o"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or write to another disk with -o"),
    errno.EFBIG: ("the file would be larger than is allowed here", "raise the limit (ulimit -f) or write elsewhere"),
    errno.EROFS: ("the file system is read-only", "write to another place with -o"),
    errno.ENOTDIR: ("a part of the path is not a folder", "check the path"),
    errno.EISDIR: ("it is a folder", "name a file"),
    errno.ELOOP: ("symbolic links that point at one another", "name the real file"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
    errno.EMFILE: ("too many open files", "raise the limit (ulimit -n)"),
    errno.ENOTEMPTY: ("it was made meanwhile", "choose another output, or replace it with --force"),
    errno.EEXIST: ("it was made meanwhile", "choose another output, or replace it with --force"),
    errno.EBUSY: ("it is in use, as a mount point is", "name a file or folder inside it"),
    errno.EXDEV: ("it lies on another disk than its folder", "name a file or folder inside it"),
    errno.EIO: ("the disk reported an error", "check the disk, or copy the file to another one"),
}


def system_failure(error: OSError, path: Path, doing: str) -> SystemFailure:
    """`error` as a SystemFailure: "cannot read model.safetensors: permission denied".

    Args:
        doing: "read" or "write".
    """
    if error.errno == errno.ENOENT:
        return _absent(path, doing)
    reason, remedy = _ADVICE.get(error.errno or 0, (error.strerror or str(error), "check the path and the disk"))
    return SystemFailure(f"cannot {doing} {path}: {reason}", remedy=remedy)


def _absent(path: Path, doing: str) -> SystemFailure:
    if path.is_symlink():
        return SystemFailure(
            f"cannot {doing} {path}: it is a link to {path.readlink()}, which does not exist",
            remedy="download or restore the file that the link points at",
        )
    parent = path.parent
    if not parent.is_dir():
        remedy = "check the path" if doing == "read" else f"make the folder first: mkdir -p {shell_word(str(parent))}"
        return SystemFailure(f"cannot {doing} {path}: there is no folder {parent}", remedy=remedy)
    return SystemFailure(f"cannot {doing} {path}: there is no such file", remedy="check the path")


def human_bytes(count: int) -> str:
    """`1234567` as "1.23 MB" (decimal units, as file managers and disks count)."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{count} bytes" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.0f} TB" if size >= 100 else f"{size:.3g} TB"
