"""Where specs are found: shipped with the program, or a file of the user's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from rebasin_cli.errors import MOST_NAMED, ContentError, UsageError, did_you_mean, question
from rebasin_cli.spec.language.loading import architectures_folder, load_spec, parse_spec
from rebasin_cli.spec.language.permutation_spec import PermutationSpec
from rebasin_cli.spec.limits import LONGEST_FILE

_TITLE = re.compile(r"^title: *(.*)$", re.MULTILINE)


@lru_cache(maxsize=1)
def shipped_specs() -> Mapping[str, Path]:
    """Name and file of every shipped spec, by name."""
    return {path.stem: path for path in sorted(architectures_folder().glob("*.yaml"))}


@lru_cache(maxsize=256)
def shipped_spec(name: str) -> PermutationSpec:
    """A shipped spec, parsed once."""
    return load_spec(shipped_specs()[name], shipped=True)


def find_spec(name_or_path: str, text: str = "") -> PermutationSpec:
    """The shipped spec of that name, or the spec in that file.

    Args:
        text: of a spec whose file need not be there any more.

    Raises:
        UnknownArchitectureError: there is neither.
        ContentError: the file is not a spec.
    """
    if text and not os.path.exists(name_or_path):
        if len(text) > LONGEST_FILE:
            raise ContentError(f"the text of the spec {name_or_path} has more than {LONGEST_FILE:,} characters")
        return parse_spec(text, name_or_path)
    specs = shipped_specs()
    if name_or_path in specs:
        return shipped_spec(name_or_path)
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or (path.exists() and not path.is_dir()):
        return load_spec(path)
    raise UnknownArchitectureError(name_or_path)


class UnknownArchitectureError(UsageError):
    """A name that no shipped spec has, and that is no file."""

    def __init__(self, name: str, *, where: str = "") -> None:
        self.name = name
        super().__init__(f"there is no architecture `{name}`", where=where, remedy=_advice(name))


def _advice(name: str) -> str:
    """The specs that are for networks of that name, or that have a name like it."""
    specs = shipped_specs()
    word = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
    titles = {spec: _TITLE.search(path.read_text(encoding="utf-8")) for spec, path in specs.items()}
    meant = [spec for spec, title in titles.items() if title and word.search(title[1])]
    if len(meant) == 1 and (title := titles[meant[0]]):
        return f"did you mean `{meant[0]}`? It is for {title[1]}"
    return (question(meant) if 0 < len(meant) <= MOST_NAMED else did_you_mean(name, specs)) or (
        f"`rebasin arch list` lists the {len(specs)} that ship; a file of your own is named with its .yaml ending"
    )
