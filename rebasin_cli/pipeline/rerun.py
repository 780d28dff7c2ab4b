"""`rebasin rerun`: whether a run can be repeated, and whether it came out the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rebasin_cli.checkpoints.reopening import sha256_of_checkpoint
from rebasin_cli.errors import ContentError
from rebasin_cli.files import sha256_of
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.record import versions
from rebasin_cli.report.document import CheckRecord, RunDocument

_FILES = ("data", "fit-data", "permutation")
"""Roles of inputs that are no checkpoints."""


def check_inputs(document: RunDocument, progress: Progress) -> None:
    """See that the files are those that the run read.

    Raises:
        ContentError: one has changed since, or came through a pipe. RebasinError: one cannot be read.
    """
    made = {role for role, path in document.outputs.items() if _is_input(document, path)}
    for role, entry in document.inputs.items():
        if entry.path == "-":
            raise ContentError(
                f"the input {role} came through a pipe, and cannot be read again",
                remedy="run the command by hand on a file",
            )
        if entry.sha256 is None or role in made:
            continue
        path = Path(entry.path)
        with progress.phase(f"checking {path.name}"):
            found = sha256_of(path) if role in _FILES else sha256_of_checkpoint(path)
        if found != entry.sha256:
            raise ContentError(
                f"{path} has changed since the run document was made: its sha256 is {found[:12]}…, the document says "
                f"{entry.sha256[:12]}…",
                remedy="restore the file that the run was made with",
            )


def comparison(before: RunDocument, after: RunDocument) -> RunDocument:
    """What agrees and what does not: the hash of each output, and the figures."""
    return RunDocument(command="rerun", checks=tuple(_checks(before, after)), versions=versions())


def _checks(before: RunDocument, after: RunDocument) -> Iterator[CheckRecord]:
    for role, old in before.hashes.items():
        new = after.hashes.get(role)
        now = "" if new == old else f" then, {new[:12]}… now" if new else " then, not written now"
        detail = f"sha256 {old[:12]}…{now}"
        yield CheckRecord(role, new == old, detail)
    for role in before.outputs.keys() - before.hashes.keys():
        there = role in after.outputs
        yield CheckRecord(role, there, "written; the document has no hash of it" if there else "not written")
    figures_now = dict(_figures(after))
    for name, figures in _figures(before):
        same = msgspec.json.encode(figures_now.get(name)) == msgspec.json.encode(figures)
        yield CheckRecord(name, same, "the same figures" if same else "other figures")


def _figures(document: RunDocument) -> Iterator[tuple[str, Any]]:
    """What was computed, without times, by name."""
    if document.match:
        yield "match", (document.match.objective, document.match.stop, document.match.losses)
    if document.distance:
        yield "distance", document.distance
    if document.barrier:
        for name, curve in document.barrier.curves.items():
            yield f"{name} curve", (document.barrier.lam, msgspec.structs.replace(curve, basis={}))
    if document.plane:
        yield "plane", msgspec.structs.replace(document.plane, basis={}, data="")
    if document.members:
        kept = (msgspec.structs.replace(m, input=m.input.sha256, outputs={}) for m in document.members.members)
        yield "members", tuple(kept)
    if document.merge:
        yield "merge", (document.merge.objective, document.merge.pairs, document.merge.scores)


def _is_input(document: RunDocument, path: str) -> bool:
    return any(entry.path == path for entry in document.inputs.values())
