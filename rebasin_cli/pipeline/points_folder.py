"""A folder of points along a path: it belongs to one run, says which, and can be gone on with.

`rebasin-points.json` in it is written before the first point. It has what the points were made from, how the
permutation was looked for, and the names of all points: what is missing of these is still to be written. Every point
has the hash of the same facts in its own metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.checkpoints.places import clean_leftovers
from rebasin_cli.errors import RebasinError, UsageError, system_failure
from rebasin_cli.files import read_json
from rebasin_cli.pipeline.targets import identity

MANIFEST = "rebasin-points.json"
FORMAT = "rebasin.points/1"
_LARGEST = 1 << 20  # bytes of the manifest: thousands of points
_POINT = re.compile(r"lam-\d\.\d{4}(\.safetensors)?")

Facts = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PointsRun:
    """The run that a folder of points belongs to.

    Attributes:
        made_of: hashes of everything that the values of the points depend on, by name.
        match: options with which the permutation was looked for; empty if it was given.
        names: of all points.
    """

    made_of: Facts
    match: Facts
    names: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """What every point of the run carries in its metadata."""
        return hashlib.sha256(json.dumps(dict(self.made_of), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The manifest."""
        value = {"format": FORMAT, "made_of": self.made_of, "match": self.match, "points": self.names}
        return json.dumps(value, indent=1, sort_keys=True) + "\n"


def read_run(folder: Path) -> PointsRun | None:
    """The run that a folder says it belongs to; None if it does not say."""
    with suppress(RebasinError, TypeError, KeyError, AttributeError):
        value = read_json(folder / MANIFEST, _LARGEST)
        if value["format"] == FORMAT:
            made_of, match = ({str(k): str(v) for k, v in value[part].items()} for part in ("made_of", "match"))
            return PointsRun(made_of, match, tuple(map(str, value["points"])))
    return None


def points_in(folder: Path) -> list[str]:
    """Names of the points in a folder, whoever made them: files, and folders with weights."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise system_failure(error, folder, "write") from error
    return [name for name in names if _POINT.fullmatch(name) and _has_weights(folder / name)]


def check_points(folder: Path, run: PointsRun, inputs: Iterable[Path], *, force: bool) -> list[str]:
    """Whether a run may write its points into a folder, as far as that is known before anything is read.

    Args:
        run: with what is known by now in `made_of`.
        inputs: files that the run reads; `force` does not remove them.

    Returns:
        Names of points that are there and may stay.

    Raises:
        UsageError: there are points of another run, or all of this one, and `force` is not given.
    """
    present = points_in(folder)
    if not present:
        return []
    if force:
        read = {identity(path) for path in inputs}
        for name in present:
            if identity(folder / name) in read:
                raise UsageError(
                    f"{folder / name} is an input, and would be replaced with the other points in {folder}",
                    remedy="name another folder for the points with -o",
                )
        return []
    there = read_run(folder)
    _refuse_others(folder, run, there, present)
    if set(run.names) <= set(present):
        raise UsageError(
            f"{folder} exists already, with all {len(run.names)} points",
            remedy="choose another output, or replace them with --force",
        )
    return present


def begin_points(folder: Path, run: PointsRun, companions: Collection[str], *, force: bool) -> set[str]:
    """Make the folder this run's: what is not of it goes under `force`, and is refused without.

    Returns:
        Names of points that are whole and stay.
    """
    present = points_in(folder)
    if present and not force:
        _refuse_others(folder, run, read_run(folder), present)
        for name in present:
            if _run_of(folder / name) != run.sha256:
                raise UsageError(
                    f"{folder / name} is not of the run that {folder / MANIFEST} names",
                    remedy="remove it, choose another folder, or have all points written again with --force",
                )
        clean_leftovers(folder)
        return set(present)
    try:
        folder.mkdir(exist_ok=True)
        clean_leftovers(folder)
        for name in present:
            _remove_point(folder / name, companions)
        with Outputs(force=True) as manifest:  # before the first point, so that each of them is known
            manifest.write(folder / MANIFEST, run.to_json().encode())
    except OSError as error:
        raise system_failure(error, folder, "write") from error
    return set()


def _refuse_others(folder: Path, run: PointsRun, there: PointsRun | None, present: Collection[str]) -> None:
    remedy = "choose another folder, or have its points removed and replaced with --force"
    shown = ", ".join(sorted(present)[:3])
    if there is None:
        raise UsageError(f"{folder} has points of which it does not say what run they are of: {shown}", remedy=remedy)
    facts, known = {**run.made_of, **run.match}, {**there.made_of, **there.match}
    differing = [name for name in facts if name in known and facts[name] != known[name]]
    if differing:
        raise UsageError(
            f"{folder} has points of another run: it differs in {', '.join(differing)}",
            where="; ".join(
                f"{n}: {short_fact(known.get(n))} there, {short_fact(facts.get(n))} here" for n in differing
            ),
            remedy=remedy,
        )
    stale = sorted(set(present) - set(run.names))
    if stale or set(there.names) != set(run.names):
        raise UsageError(
            f"{folder} is of {len(there.names)} points, and this run has {len(run.names)}",
            remedy=f"--steps {len(there.names)} goes on with them; or {remedy}",
        )


def _run_of(point: Path) -> str | None:
    with suppress(RebasinError), open_checkpoint(point) as checkpoint:
        return checkpoint.metadata.get("rebasin.run")
    return None


def _has_weights(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("*.safetensors")) or any(path.glob("*.index.json"))
    return True


def _remove_point(path: Path, companions: Collection[str]) -> None:
    """Remove a point; of a folder only what a run puts there, so that a user's own files in it stay."""
    if not path.is_dir() or path.is_symlink():
        path.unlink()
        return
    for file in path.rglob("*"):
        if file.name.endswith((".safetensors", ".index.json")) or file.name in companions:
            file.unlink()
    for below in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
        with suppress(OSError):
            below.rmdir()
    with suppress(OSError):  # something of the user's own is in it
        path.rmdir()


def short_fact(value: str | None) -> str:
    """A fact of a run for a message: of a hash its beginning."""
    if value is None:
        return "nothing"
    return f"{value[:12]}…" if len(value) == 64 else value
