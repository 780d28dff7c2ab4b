"""Derived specs, kept in the user's cache for the next run of the same network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import rebasin_cli
from rebasin_cli.checkpoints.outputs import replacing_file
from rebasin_cli.errors import RebasinError
from rebasin_cli.evaluation.given import GivenNetwork, NetworkName
from rebasin_cli.evaluation.user_code import module_files
from rebasin_cli.files import read_text
from rebasin_cli.pipeline.remembered_proofs import user_folder
from rebasin_cli.spec.binding.claims import Shape
from rebasin_cli.spec.language import LONGEST_FILE
from rebasin_cli.spec.language.loading import parse_spec


def place_for(reference: NetworkName, options: Mapping[str, str], shapes: Mapping[str, Shape]) -> Path:
    """Where a derived spec is kept: by the code of the network, its options, and the sizes of its tensors.

    Code in memory has no file to tell whether it is still the same: its spec is called after it, and kept nowhere.
    """
    if isinstance(reference, GivenNetwork):
        return Path(f"<{reference}>.yaml")
    digest = hashlib.sha256(rebasin_cli.__version__.encode())
    for path in module_files(reference):
        with suppress(OSError):
            digest.update(path.read_bytes())
    digest.update(json.dumps([reference, dict(options), dict(shapes)], sort_keys=True).encode())
    return (
        user_folder("XDG_CACHE_HOME", ".cache")
        / "derived"
        / f"{reference.replace(':', '-')}-{digest.hexdigest()[:16]}.yaml"
    )


_MARK = "# derived by rebasin, sha256 "


def kept_spec(place: Path) -> str | None:
    """A spec that was kept, if it is whole: its first line has the hash of the rest."""
    try:
        head, _, text = read_text(place, LONGEST_FILE, "a permutation spec", "").partition("\n")
        if head != _MARK + hashlib.sha256(text.encode()).hexdigest():
            return None
        parse_spec(text, str(place))
    except RebasinError:
        return None
    return text


def keep(place: Path, text: str) -> None:
    """Keep a spec; where that cannot be done, nothing happens."""
    with suppress(OSError, RebasinError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(place) as out:
            out.write(f"{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n{text}".encode())
