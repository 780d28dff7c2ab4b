"""Going on from an earlier run: the document that was piped in, or that of a sweep which was cut short (`--resume`).

Every curve of a document says what its points depend on (`basis`). A point is taken over where that is the same, and
measured again where anything of it differs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TypeVar

from msgspec import structs

from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.errors import ContentError, RebasinError, UsageError
from rebasin_cli.evaluation.scores import Bin, Scores
from rebasin_cli.files import read_bytes
from rebasin_cli.permutation.files import LARGEST
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.inputs import Source
from rebasin_cli.pipeline.layouts import Pair, SpecChoice
from rebasin_cli.pipeline.points_folder import short_fact
from rebasin_cli.report.codec import document_file, read_document
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.measurements import ENSEMBLE, BarrierRecord, CurveRecord, PlaneRecord

R = TypeVar("R", BarrierRecord, PlaneRecord)

Basis = Mapping[str, str]
"""What the points of a curve depend on, by name: hashes of files, permutation and examples, and options."""

_EVERY = 0.5
"""Seconds between two writings of a sweep's document: a process that is killed loses no more than that."""

_DIGITS = 12  # of λ: 12/24 and 24/48 are one point


@dataclass(frozen=True, slots=True)
class EarlierSweep:
    """The document of a sweep, to go on from; without one nothing is known yet."""

    path: Path | None = None
    document: RunDocument | None = None

    def points(self, basis: Basis) -> dict[float, Scores]:
        """What was measured on the same basis, by λ (see `place_of`); failures and what is not finite are not."""
        found: dict[float, Scores] = {}
        for _, curve, lams in self._curves():
            if dict(curve.basis) == dict(basis):
                found |= {
                    place_of(lam): s for lam, s in zip(lams, _scores(curve), strict=True) if math.isfinite(s.loss)
                }
        plane = self.document.plane if self.document else None
        if plane is not None and basis.items() <= plane.basis.items() and "A" in plane.points:
            found[0.0] = Scores(plane.points["A"].loss, plane.points["A"].accuracy)
        return found

    def check(self, basis: Basis, grid: Sequence[float], repairs: Sequence[str], *, ensemble: bool = False) -> None:
        """Refuse to write over the document of another sweep, or over points that this one leaves out.

        Args:
            basis: of the naive curve.

        Raises:
            UsageError: naming what differs or would be lost.
        """
        barrier = self.document.barrier if self.document else None
        if barrier is None or barrier.naive is None:
            return
        naive = barrier.naive
        names = [n for n in dict.fromkeys((*basis, *naive.basis)) if basis.get(n) != naive.basis.get(n)]
        if names:
            raise UsageError(
                f"{self.path} is of another sweep: it differs in {', '.join(names)}",
                where="; ".join(
                    f"{n}: {short_fact(naive.basis.get(n))} there, {short_fact(basis.get(n))} here" for n in names
                ),
                remedy="give the options of that run, name another file, or begin again with --force",
            )
        known, wanted = ({place_of(lam) for lam in lams} for lams in (barrier.lam, grid))
        if known - wanted:
            raise UsageError(
                f"{self.path} has {len(known)} points of a curve, and {len(known - wanted)} are none of this run",
                remedy=f"--steps {len(known)} has all of them, --steps {2 * len(known) - 1} those between as well",
            )
        left = [name for name in barrier.repaired if name.rpartition(" ")[2] not in repairs]
        if left:
            raise UsageError(
                f"{self.path} has the curve `{left[0]}`, which this run leaves out",
                remedy=f"add --repair {left[0].rpartition(' ')[2]}, or name another file",
            )
        if barrier.ensemble is not None and not ensemble:
            raise UsageError(
                f"{self.path} has the curve `{ENSEMBLE}`, which this run leaves out",
                remedy="add --ensemble, or name another file",
            )

    def files(self) -> set[Path]:
        """What an earlier run left, to be gone on with: it may be replaced."""
        if self.document is None or self.path is None:
            return set()
        permutation = self.document.outputs.get("permutation")
        ours = permutation and _sha256(Path(permutation)) == self.document.hashes.get("permutation")
        return {self.path.absolute()} | ({Path(permutation)} if permutation and ours else set())

    def permutation(self, method: str, seed: int, symmetry: str = "permutations") -> Path | None:
        """The file of the permutation that was found, if the same method would look for it again."""
        document = self.document
        if document is None or document.match is None or "permutation" not in document.outputs:
            return None
        path = Path(document.outputs["permutation"])
        found = document.architecture.options.symmetry if document.architecture else ""
        same = (document.match.method, document.match.seed, found or "permutations") == (method, seed, symmetry)
        return path if same and _sha256(path) == document.hashes.get("permutation", "") else None

    def _curves(self) -> list[tuple[str, CurveRecord, tuple[float, ...]]]:
        barrier = self.document.barrier if self.document else None
        return [(name, curve, barrier.lam) for name, curve in barrier.curves.items()] if barrier else []


NO_SWEEP = EarlierSweep()


def read_earlier_sweep(path: Path, command: str = "interpolate") -> EarlierSweep:
    """What a sweep left behind; a file that is not there yet is no failure: the same command starts and goes on.

    Raises:
        ContentError: the file is no document of a sweep.
    """
    if not path.exists():
        return EarlierSweep(path)
    document = read_document(path)
    if document.command != command:
        raise ContentError(
            f"{path} is the document of `rebasin {document.command}`, and --resume goes on from one of "
            f"`rebasin {command}`",
            remedy=f"name the file that `rebasin {command}` was given with --resume or --report",
        )
    return EarlierSweep(path, document)


@contextmanager
def keeping(
    path: Path | None, document_of: Callable[[R], RunDocument], outputs: Outputs, progress: Progress
) -> Iterator[Callable[[Callable[[], R]], None]]:
    """Keeps a sweep's document in a file while it runs, so that whatever ends it, no point is lost.

    Yields a function to be called after every point with what makes the record of all that were measured so far.
    Writing is left out while the last one is fresh, and caught up with when the sweep fails.
    """
    latest: Callable[[], R] | None = None
    written = -math.inf

    def write(record: R) -> None:
        if path is not None:
            outputs.write(path, document_file(document_of(record), path), at_once=True)

    def keep(make: Callable[[], R]) -> None:
        nonlocal latest, written
        latest = make
        if path is not None and monotonic() - written >= _EVERY:
            write(make())
            written = monotonic()

    try:
        yield keep
    except BaseException:
        if latest is not None:
            record = latest()
            write(record)
            goes_on = f"kept in {path}: --resume {path} goes on from them" if path else "lost: --resume FILE keeps them"
            progress.remark(f"{record.missing} points are not measured yet; the others are {goes_on}")
        raise


def place_of(lam: float) -> float:
    """λ, so that it can be looked up whatever number of steps it was computed from."""
    return round(lam, _DIGITS)


def from_document(document: RunDocument) -> tuple[Source, Source, SpecChoice, Path | None]:
    """Inputs, spec and permutation of an earlier run, to be worked on.

    Raises:
        ContentError: it names no two checkpoints, or one that was read from a pipe and is gone.
    """
    paths = []
    for role in ("a", "b"):
        entry = document.inputs.get(role)
        if entry is None or entry.path == "-":
            how = "names no checkpoint" if entry is None else "read its checkpoint from a pipe, for"
            raise ContentError(
                f"the run document of `rebasin {document.command}` {how} {role.upper()}",
                where="stdin",
                remedy="name both checkpoints: rebasin interpolate A B",
            )
        paths.append(Source.file(Path(entry.path)))
    if document.architecture is None:
        raise ContentError(
            f"the run document of `rebasin {document.command}` has no architecture",
            where="stdin",
            remedy="pipe the document of `rebasin align`, or name both checkpoints",
        )
    permutation = document.outputs.get("permutation")
    named = Path(permutation) if permutation else None
    return paths[0], paths[1], SpecChoice.of_record(document.architecture), named


def check_same_spec(document: RunDocument | None, pair: Pair) -> None:
    """Refuse a spec that is not the one the earlier run was bound to.

    Raises:
        ContentError: its hash differs.
    """
    architecture = document.architecture if document else None
    spec = pair.layout.spec
    if architecture and architecture.sha256 != spec.sha256:
        raise ContentError(
            f"the spec `{spec.name}` has changed since the run document was made: "
            f"its hash is {spec.sha256[:12]}…, the document says {architecture.sha256[:12]}…",
            where=str(spec.path),
            remedy="run `rebasin align` again",
        )


def continued(before: RunDocument | None, now: RunDocument) -> RunDocument:
    """What the earlier command found stays, unless it was found again."""
    if before is None:
        return now
    failed = tuple(f"{place} could not be measured" for place in (before.barrier.failures if before.barrier else {}))
    warnings = (text for text in before.warnings if not text.startswith(failed))  # by now it may have been
    architecture = now.architecture
    if architecture and before.architecture:
        checked = architecture.checked
        if checked and checked.error is None:  # what is assumed now may have been seen by the run before
            architecture = structs.replace(architecture, checked=before.architecture.checked or checked)
    return structs.replace(
        now,
        inputs={**before.inputs, **{r: e for r, e in now.inputs.items() if r != "permutation"}},
        architecture=architecture,
        match=now.match or before.match,
        outputs={**before.outputs, **now.outputs},
        hashes={**before.hashes, **now.hashes},
        warnings=tuple(dict.fromkeys((*warnings, *now.warnings))),
        peak_memory_bytes=max(before.peak_memory_bytes, now.peak_memory_bytes),
    )


def _scores(curve: CurveRecord) -> list[Scores]:
    bins = curve.reliability or ((),) * len(curve.loss)
    return [
        Scores(
            loss, accuracy, {name: values[i] for name, values in curve.metrics.items()},
            tuple(Bin(each.count, each.confidence, each.accuracy) for each in bins[i]),
        )
        for i, (loss, accuracy) in enumerate(zip(curve.loss, curve.accuracy, strict=True))
    ]  # fmt: skip


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(read_bytes(path, LARGEST)).hexdigest()
    except RebasinError:
        return None
