"""`FILE:KEY`: a checkpoint as it is named on the command line, and one network in it."""

from __future__ import annotations

import os
import re
from pathlib import Path

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


def file_name_of(key: str) -> str:
    """A key as a part of a file's name: `model.encoder` stays, what a name should not have becomes `_`."""
    return _UNSAFE.sub("_", key).strip(".")[:80] or "_"
