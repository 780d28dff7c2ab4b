"""The folder of the shipped specs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import rebasin_cli
from rebasin_cli.errors import ContentError


@lru_cache(maxsize=1)
def architectures_folder() -> Path:
    """The folder of the shipped specs: inside the package if installed, next to it in a source checkout."""
    package = Path(rebasin_cli.__file__).parent
    candidates = (package / "architectures", package.parent / "architectures")
    for folder in candidates:
        if any(folder.glob("*.yaml")):
            return folder
    raise ContentError(
        "the shipped permutation specs are not there",
        where=" or ".join(map(str, candidates)),
        remedy="install the package again: `pip install --force-reinstall rebasin-cli`",
    )
