"""How a checkpoint is named on the command line: `FILE:KEY` for one network in a file, `hf:OWNER/NAME` for the hub's.

Names only: what is on the hub is fetched by `hub.py`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rebasin_cli.errors import UsageError

PREFIX = "hf:"
FORM = "hf:OWNER/NAME, and after it @REVISION and /FILE or /FOLDER if need be"

_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
REVISION = r"refs/(?:pr/\d+|convert/\w+)|\w[\w.+-]*"
_NAME = re.compile(rf"hf:(?P<repo>{_PART}/{_PART})(?:@(?P<revision>{REVISION}))?(?:/(?P<path>[^@:\\]+))?")
_CACHED = re.compile(r"(?:^|/)(?:models|datasets)--(?P<repo>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})(?:/|$)")
_UNSAFE = re.compile(r"[^\w.-]+")


def split_address(path: Path) -> tuple[Path, str | None]:
    """`a.pth:teacher` → (`a.pth`, "teacher"). A path that exists is one, also with a colon in its name."""
    text = str(path)
    if ":" not in text or os.path.lexists(path):
        return path, None
    for colon in [match.start() for match in re.finditer(":", text)]:
        file, key = text[:colon], text[colon + 1 :]
        if file and key and os.path.lexists(file):
            return Path(file), key
    return path, None


def is_pattern(key: str | None) -> bool:
    """Whether a key names several members: `models.*`, `*`."""
    return key is not None and (key == "*" or key.endswith(".*"))


def names_several(path: Path) -> bool:
    """Whether a path has a key that names several members."""
    return is_pattern(split_address(path)[1])


def file_name_of(key: str) -> str:
    """A key as a part of a file's name: `model.encoder` stays, what a name should not have becomes `_`."""
    return _UNSAFE.sub("_", key).strip(".")[:80] or "_"


@dataclass(frozen=True, slots=True)
class HubName:
    """A model of the hub as it was named.

    Attributes:
        repo: `OWNER/NAME`; revision: a branch, a tag or a commit, None for the main branch.
        path: a file or a folder in it, "" for the whole.
    """

    repo: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repo}{revision}" + (f"/{self.path}" if self.path else "")


def is_on_hub(text: str) -> bool:
    """Whether a text names something on the hub, and no file that is here."""
    return text.startswith(PREFIX) and not os.path.lexists(text)


def hub_name(text: str) -> HubName:
    """What `hf:…` names.

    Raises:
        UsageError: it is no such name.
    """
    found = _NAME.fullmatch(text)
    path = PurePosixPath(found["path"] or "") if found else PurePosixPath()
    if found is None or ".." in path.parts or ".." in found["repo"] or "--" in found["repo"]:
        raise UsageError(f"{text}: that is no name of a model on the hub", remedy=f"the form is {FORM}")
    return HubName(found["repo"], found["revision"], "" if str(path) == "." else str(path))


def place_in_cache(path: str) -> tuple[str, str] | None:
    """`OWNER/NAME` and the commit of a file in the cache of the hub; None for any other file."""
    found = _CACHED.search(path)
    return (found["repo"].replace("--", "/"), found["commit"]) if found else None
