"""Every failure that a user can cause, as a value: what happened, where, and what to do next.

One base class, raised anywhere and caught in the CLI alone. The class decides the exit code,
so that a code is a property of the kind of failure and not of the place that noticed it.

And what such a failure is told with: what the operating system said, by one table from errno to advice, so that reading
and writing speak alike; and “did you mean …?”, known words that are similar to an unknown one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from pathlib import Path

from rebasin_cli.safe_text import shell_word


class RebasinError(Exception):
    """A failure with an answer.

    Args:
        what: the facts, both sides of them, with numbers.
        where: tensor and axis, file and line, dim; empty if ``what`` says it all.
        remedy: what the user can do next; empty only if there is nothing to do.
    """

    exit_code = 3

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"where: {self.where}")
        if self.remedy:
            lines.append(f"try:   {self.remedy}")
        return "\n".join(lines)


class GateError(RebasinError):
    """A gate or a check that the user asked for did not pass (exit code 1)."""

    exit_code = 1


class UsageError(RebasinError):
    """The call cannot be carried out as it was written (exit code 2)."""

    exit_code = 2


class ContentError(RebasinError):
    """Checkpoints, spec or data do not fit or are not acceptable (exit code 3)."""

    exit_code = 3


class SystemFailure(RebasinError):  # noqa: N818  (SystemError is a builtin of another meaning)
    """The system could not read or write what was asked for (exit code 4)."""

    exit_code = 4


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


MOST_NAMED = 3
"""Names in a question."""

_LEAST = 3  # letters of a word that others are searched for


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question naming the nearest known words, or an empty string."""
    return question(nearest(word, known))


def question(names: Sequence[str]) -> str:
    """Whether one of these is meant; empty if there are none."""
    quoted = [f"`{name}`" for name in names]
    listed = ", ".join(quoted[:-1]) + f" or {quoted[-1]}" if len(quoted) > 1 else "".join(quoted)
    return f"did you mean {listed}?" if quoted else ""


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The known words that an unknown one most likely means, three at most; signs and capitals do not count.

    A prefix or a part of known words means those: `resnet` is `resnet-basic`, not `regnet`. So does one with a number
    of its own behind it: `resnet50` is not `res2net`.
    """
    names: dict[str, list[str]] = {}
    for name in dict.fromkeys(known):
        names.setdefault(_plain(name), []).append(name)
    import re
    from difflib import get_close_matches

    low = _plain(word)
    # A number right behind a word is its version; behind a dot, as in `act.0`, it is a place.
    stem = low.rstrip("0123456789") if re.search(r"[^\W\d]\d+$", word) else low
    found = (
        [plain for plain in names if plain == low]
        or [plain for plain in names if len(low) >= _LEAST and plain.startswith(low)]
        or [plain for plain in names if stem != low and len(stem) >= _LEAST and plain.startswith(stem)]
        or get_close_matches(low, names, n=MOST_NAMED, cutoff=0.8)
        or [plain for plain in names if len(low) >= _LEAST and low in plain]
        or get_close_matches(low, names, n=MOST_NAMED, cutoff=0.6)
    )
    meant = [name for plain in found for name in names[plain]][:MOST_NAMED]
    return meant or get_close_matches(word, [name for same in names.values() for name in same], n=MOST_NAMED)


def _plain(word: str) -> str:
    return "".join(filter(str.isalnum, word)).lower()
