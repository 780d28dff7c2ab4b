"""Names of files as a reader elsewhere knows them: without the folders of the machine where a run was made."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath

from msgspec.structs import replace

from rebasin_cli.report.codec import by_names
from rebasin_cli.report.document import InputRecord, RunDocument

_HUB = re.compile(r"(?:^|/)models--([^/]+?)--([^/]+)/snapshots/")


def _name_on_hub(path: str) -> str | None:
    """`OWNER/NAME` of a model that lies in the cache of a hub; None for any other file."""
    found = _HUB.search(path)
    return f"{found[1]}/{found[2]}" if found else None


def role_name(role: str) -> str:
    """`a` → `A`, `model.1` → `model 1`."""
    return role.upper() if role in ("a", "b") else role.replace("model.", "model ")


def input_names(inputs: Mapping[str, InputRecord]) -> dict[str, str]:
    """By role, the file's name, with as many folders before it as tell it from the others: `run1/model.safetensors`."""
    parts = {role: PurePath(entry.path).parts for role, entry in inputs.items()}
    longest = max(map(len, parts.values()), default=0)
    endings = [Counter(own[-n:] for own in set(parts.values())) for n in range(1, longest + 1)]
    names: dict[str, str] = {}
    for role, own in parts.items():
        length = next((n for n, found in enumerate(endings, 1) if found[own[-n:]] == 1), longest)
        path = inputs[role].path
        names[role] = _name_on_hub(path) or (os.path.join("", *own[-length:]) if os.path.isabs(path) else path)
    return names


def short_path(path: str) -> str:
    """The path as seen from the current folder if it lies in it or that is shorter, and otherwise as it is."""
    try:
        relative = os.path.relpath(path) if os.path.isabs(path) else path
    except OSError:  # a folder that is gone
        return path
    return relative if not relative.startswith("..") or len(relative) < len(path) else path


def model_names(document: RunDocument) -> dict[str, str]:
    """The networks that went in, by role."""
    return {role: name for role, name in input_names(document.inputs).items() if _is_model(role)}


def _is_model(role: str) -> bool:
    return role in ("a", "b", "checkpoint") or role.startswith("model.")


def without_folders(document: RunDocument) -> RunDocument:
    """The document with names instead of paths, to be sent to others."""
    names, shown = input_names(document.inputs), by_names(document)
    listed = document.architectures
    many = shown.members
    if many is not None and document.members is not None:
        own = input_names({str(i): m.input for i, m in enumerate(document.members.members)})
        told = (replace(m, input=replace(m.input, path=own[str(i)])) for i, m in enumerate(many.members))
        shown = replace(shown, members=replace(many, members=tuple(told)))
    return replace(
        shown,
        inputs={role: replace(entry, path=names[role]) for role, entry in document.inputs.items()},
        architectures=listed and tuple(replace(one, file=os.path.basename(one.file)) for one in listed),
    )
