"""Where specs are found: shipped with the program, or a file of the user's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from rebasin_cli.errors import ContentError
from rebasin_cli.spec.hints import did_you_mean
from rebasin_cli.spec.language.loading import load_spec, parse_spec
from rebasin_cli.spec.language.permutation_spec import PermutationSpec
from rebasin_cli.spec.limits import LONGEST_FILE
from rebasin_cli.spec.shipped_folder import architectures_folder


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
        ContentError: there is neither, or the file is not a spec.
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
    raise ContentError(
        f"there is no architecture `{name_or_path}`",
        remedy=did_you_mean(name_or_path, specs)
        or f"shipped: {', '.join(specs)}; a file of your own is named with its .yaml ending",
    )
