"""Whether files that lie next to each other are of one run.

A run renames its outputs one after the other, so that a machine that stops in between leaves some of each run. The
hash of the permutation is in all of them: in the weights' metadata and in the document.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.errors import ContentError, RebasinError
from rebasin_cli.permutation.files import SavedPermutation
from rebasin_cli.pipeline.targets import beside
from rebasin_cli.report.codec import read_document
from rebasin_cli.report.document import RunDocument

_ENDING = ".permutation.safetensors"
_KEY = "rebasin.permutation"


def check_same_run(saved: SavedPermutation) -> None:
    """Refuse a permutation next to a document, or next to aligned weights, that another run wrote.

    Raises:
        ContentError: naming the two files.
    """
    path = saved.path.absolute()
    if not path.name.endswith(_ENDING):
        return
    base = path.with_name(path.name.removesuffix(_ENDING))
    weights = [beside(base, ending) for ending in (".safetensors", ".aligned.safetensors", ".aligned", "")]
    document = beside(base, ".rebasin.json")
    found = None
    if document.exists():
        with suppress(RebasinError):  # whatever it is, it is not of a run of ours
            found = read_document(document)
    if found and _names(found, "permutation", path):
        _compare(saved, found.hashes.get("permutation"), document)
        aligned = found.outputs.get("aligned")
        weights = [_now(aligned, path)] if aligned else []
    for target in weights:
        if target.exists():
            _compare(saved, _recorded(target), target)


def _names(document: RunDocument, role: str, path: Path) -> bool:
    named = document.outputs.get(role)
    return named is not None and _now(named, path).exists() and _now(named, path).samefile(path)


def _now(named: str, beside_it: Path) -> Path:
    """Where a file is that a document names: next to the others under its name, if the set was moved."""
    path = Path(named)
    return path if path.exists() else beside_it.with_name(path.name)


def _recorded(target: Path) -> str | None:
    """The hash of the permutation that weights were made with, if they say."""
    with suppress(RebasinError), open_checkpoint(target) as checkpoint:
        if checkpoint.metadata.get("rebasin.command") == "align":
            return checkpoint.metadata.get(_KEY)
    return None


def _compare(saved: SavedPermutation, recorded: str | None, other: Path) -> None:
    if recorded is not None and recorded != saved.sha256:
        raise ContentError(
            f"{saved.path} and {other} are of two runs: the one has the hash {saved.sha256[:12]}…, "
            f"the other was made with {recorded[:12]}…",
            remedy="write both again with `rebasin align` and --force, or move the permutation to a folder of its own",
        )
