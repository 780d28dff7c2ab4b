"""`rebasin interpolate` after all headers were judged: the match, the losses, and what is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from msgspec import structs
from torch import Tensor

from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.errors import ContentError
from rebasin_cli.matching.problem import MatchResult
from rebasin_cli.merging.interpolation import interpolated
from rebasin_cli.merging.options import Blend
from rebasin_cli.permutation.files import SavedPermutation, permutation_bytes
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.inputs import check_rotations, scan_sources
from rebasin_cli.pipeline.interpolate import Run, points_run
from rebasin_cli.pipeline.interpolate_request import InterpolateRequest
from rebasin_cli.pipeline.match import distance_of, match_pair, on_cluster, tell_identity
from rebasin_cli.pipeline.points import PathPoints, best_point
from rebasin_cli.pipeline.record import (
    architecture_record,
    data_records,
    distance_record,
    input_record,
    match_record,
    peak_memory,
    versions,
)
from rebasin_cli.pipeline.resume import continued, keeping
from rebasin_cli.pipeline.sweep import Sweep, begin_sweep, measure_barrier
from rebasin_cli.pipeline.targets import write_document
from rebasin_cli.pipeline.ties import any_permutation, check_ties, without_parting_ties
from rebasin_cli.pipeline.worth import Point, point_verdict, told
from rebasin_cli.pipeline.write_points import PathRecipe, second_end, write_path
from rebasin_cli.report.document import InputRecord, RunDocument
from rebasin_cli.report.measurements import BarrierRecord, PlaneRecord, VerdictRecord
from rebasin_cli.report.worth import judge_unmeasured

States = Mapping[str, Mapping[str, Tensor]]
"""Of one point, by what was done to it."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """The permutation, its file, and the match that found it; empty if B is left as it is."""

    permutation: Permutation | None = None
    file: bytes = b""
    result: MatchResult | None = None

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.file).hexdigest()


@dataclass(frozen=True, slots=True)
class Measured:
    """A path that was matched and measured.

    Attributes:
        inputs: the checkpoints as they were read, by role.
        document: what was known before the sweep.
        sweep: what the path was measured by; losses: what the sweep found; both None without a loss.
    """

    inputs: Mapping[str, InputRecord]
    alignment: Alignment
    document: RunDocument
    sweep: Sweep | None
    losses: BarrierRecord | PlaneRecord | None


def carry_out(run: Run, progress: Progress) -> RunDocument:
    """Scan, match, measure, write and document a path that is ready."""
    with Outputs(force=run.request.force, ours=run.kept.files()) as outputs:
        outputs.claim(*run.targets.paths().values())
        measured = measure(run, outputs, progress)
        return write(run, measured, outputs, progress)


def measure(run: Run, outputs: Outputs, progress: Progress) -> Measured:
    """Read both ends, match them, and measure the path; what a sweep is gone on from later is written meanwhile."""
    with on_cluster(run.choice, (run.request.a, run.request.b), progress) as choice:
        return _measured(replace(run, choice=choice), outputs, progress)


def _measured(run: Run, outputs: Outputs, progress: Progress) -> Measured:
    run, inputs = _scan(run, progress)
    sweep = _begin_sweep(run, inputs)
    alignment = _alignment(run, inputs, progress)
    document = _document(run, inputs, alignment)
    document = _write_permutation(run, alignment, document, outputs)
    losses = None
    if sweep:
        losses = _losses(run, sweep, alignment.permutation, document, outputs, progress)
    else:
        progress.remark("no --data, so no loss and no barrier; --data FILE measures them")
    return Measured(inputs, alignment, document, sweep, losses)


def write(run: Run, measured: Measured, outputs: Outputs, progress: Progress) -> RunDocument:
    """Write the points and reports that have a target, and return the document."""
    points, losses = run.points, measured.losses
    if run.request.best and isinstance(losses, BarrierRecord):
        points = replace(points, at=best_point(losses, progress))
    polished = polished_point(run, points.at, measured)
    verdict = _verdict(run, measured, points.at, polished, progress)
    permutation, recipe = measured.alignment.permutation, recipe_of(run, points, measured, polished)
    written = write_path(points, run.pair, permutation, recipe, outputs, progress)
    at = points.at if points.output is not None else None
    if losses and (plot := run.targets.path("plot")):
        outputs.write(plot, _picture(losses, plot))
        written["plot"] = str(plot)
    document = _so_far(measured.document, run.before, progress, losses, written, at)
    hashes = {**document.hashes, **run.targets.hashes(outputs.hashes)}
    document = structs.replace(document, verdict=verdict, hashes=hashes)
    write_document(document, run.targets, outputs, progress)
    return document


def _losses(
    run: Run, sweep: Sweep, permutation: Permutation | None, document: RunDocument, outputs: Outputs, progress: Progress
) -> BarrierRecord | PlaneRecord:
    """The losses of the line, or of the plane; the document is kept up to date meanwhile."""
    path, document_of = run.targets.path("report"), partial(_so_far, document, run.before, progress)
    if run.request.plane is None:
        with keeping(path, document_of, outputs, progress) as keep:
            return measure_barrier(sweep, permutation, run.points.grid, progress=progress, keep=keep)
    from rebasin_cli.pipeline.plane import measure_plane

    if permutation is None:
        raise ContentError(
            "the piped run has no permutation file, and a plane goes through B aligned",
            remedy="name both checkpoints: rebasin plane A B",
        )
    with keeping(path, document_of, outputs, progress) as keep_plane:
        return measure_plane(
            sweep, permutation, run.request.plane, progress=progress, keep=keep_plane, force=run.request.force
        )  # fmt: skip


def _scan(run: Run, progress: Progress) -> tuple[Run, dict[str, InputRecord]]:
    """Read both checkpoints once, and refuse what would not stay the same network; the run with what may move."""
    request, pair = run.request, run.pair
    a, b = run.ends
    known = {role: entry.sha256 for role, entry in request.document.inputs.items()} if request.document else {}
    heads: dict[str, Mapping[str, int]] = {}
    inputs = scan_sources({"a": (request.a, a), "b": (request.b, b)}, progress, known, heads)
    if run.check:
        if run.saved is None:
            (pair,) = without_parting_ties([pair], [(pair.layout_b, b, heads["b"])], request.spec, progress)
        check_rotations(pair.layout, pair.a)
        check_rotations(pair.layout_b, b)
        drawn = [run.saved.permutation] if run.saved else any_permutation(pair.layout)
        check_ties(pair.layout_b, b, heads["b"], drawn)
        run.check.spec(pair.layout, request.choice.seed, pair.b, pair.a)
    return replace(run, pair=pair), inputs


def _begin_sweep(run: Run, inputs: Mapping[str, InputRecord]) -> Sweep | None:
    """Measure A, if there is something to judge it by."""
    request = run.request
    if run.scorer is None:
        return None
    along = Blend(request.blend.how)
    return begin_sweep(
        run.scorer, run.pair, request.spec, inputs, run.points.grid, blend=along, kept=run.kept, force=request.force
    )  # fmt: skip


def _alignment(run: Run, inputs: Mapping[str, InputRecord], progress: Progress) -> Alignment:
    """Take the permutation that is given, or match."""
    request, pair = run.request, run.pair
    result = None
    if not request.align:
        return Alignment()
    if run.saved is not None:
        _check_saved(request, run.saved, inputs, progress)
        permutation = run.saved.permutation
    elif request.document is not None:
        progress.warn("the piped run has no permutation file, so that only the naive path is measured")
        return Alignment()
    else:
        result = match_pair(pair, run.choice, run.choice.device_for(pair.layout), progress, inputs)
        permutation = result.permutation
    if run.check:
        run.check.found(pair.layout, permutation, pair.b, pair.a)
    of = {role: entry.identity for role, entry in inputs.items()}
    return Alignment(permutation, permutation_bytes(permutation, pair.layout, inputs=of), result)


def _check_saved(
    request: InterpolateRequest, saved: SavedPermutation, inputs: Mapping[str, InputRecord], progress: Progress
) -> None:
    """Refuse a permutation that is not the one of the run document, and warn of one made for other checkpoints."""
    others = [role for role, entry in inputs.items() if saved.inputs.get(role) not in (None, entry.identity)]
    which = " and ".join(role.upper() for role in others)
    if request.document is not None and _of_document(request.document, saved.path):
        recorded = request.document.hashes.get("permutation")
        unsaid = [role for role in inputs if role not in saved.inputs] if recorded is None else []
        if others or unsaid or recorded not in (None, saved.sha256):
            raise ContentError(
                f"{saved.path} was replaced since the run document was made, or the document was edited: "
                + (f"it is for another {which}" if others else "it is another permutation"),
                remedy="run `rebasin align` again, or name the file with --permutation",
            )
    if others:
        progress.warn(f"{saved.path.name} was made for another {which}: it need not be an optimum for these two")
    tell_identity(saved.permutation, progress, inputs)


def _of_document(document: RunDocument, path: Path) -> bool:
    """Whether the permutation is the one that the document names, and not one that the user named instead."""
    named = document.outputs.get("permutation")
    return named is not None and Path(named).absolute() == path.absolute()


def _document(run: Run, inputs: Mapping[str, InputRecord], alignment: Alignment) -> RunDocument:
    """What is known before the path is measured."""
    pair, permutation = run.pair, alignment.permutation
    checked = run.check.record() if run.check and permutation is not None else None
    distance = distance_of(pair, permutation or Permutation({}))
    return RunDocument(
        command=run.request.command,
        inputs=_all_inputs(run, inputs),
        architecture=architecture_record(pair.layout, run.request.spec, distance, checked),
        match=match_record(alignment.result) if alignment.result else None,
        distance=distance_record(distance),
        versions=versions(),
        device=run.device,
        invocations=run.request.document.invocations if run.request.document else (),
    )


def _all_inputs(run: Run, inputs: Mapping[str, InputRecord]) -> dict[str, InputRecord]:
    found, request = dict(inputs), run.request
    if run.saved is not None:
        found["permutation"] = input_record(run.saved.shown, run.saved.sha256)
    return found | (data_records(request.data) if request.data else {})


def _write_permutation(run: Run, alignment: Alignment, document: RunDocument, outputs: Outputs) -> RunDocument:
    """Write the permutation if it is asked for, and return the document that tells of it.

    It is written before the sweep and the points, so that they can be cut short and gone on with without a match.
    """
    path = run.targets.path("permutation")
    if path is None or alignment.permutation is None:
        return document
    outputs.write(path, alignment.file, at_once=run.scorer is not None or run.points.at is None)
    return structs.replace(document, outputs={"permutation": str(path)}, hashes={"permutation": alignment.sha256})


def _so_far(
    document: RunDocument,
    before: RunDocument | None,
    progress: Progress,
    measured: BarrierRecord | PlaneRecord | None,
    written: Mapping[str, str] | None = None,
    at: float | None = None,
) -> RunDocument:
    """What is known of the path so far, together with what an earlier run found."""
    outputs = {**document.outputs, **(written or {})}
    now = structs.replace(
        document,
        barrier=measured if isinstance(measured, BarrierRecord) else None,
        plane=measured if isinstance(measured, PlaneRecord) else None,
        outputs=outputs,
        warnings=tuple(progress.warnings),
        at=at,
        peak_memory_bytes=peak_memory(),
        invocations=(*document.invocations, *progress.invocations()),
    )
    return continued(before, now)


def polished_point(run: Run, at: float | None, measured: Measured) -> States:
    """The point that is written, fitted to both ends, by how; an end is no merge, and stays what it is."""
    if run.polisher is None or at is None or at in (0.0, 1.0):
        return {}
    pair = run.pair
    b = second_end(pair, measured.alignment.permutation)
    state = interpolated(pair.layout, pair.a, b, at, run.request.blend)
    return dict(run.polisher.polish(state, (pair.a, b), (1 - at, at)))


def _verdict(
    run: Run, measured: Measured, at: float | None, polished: States, progress: Progress
) -> VerdictRecord | None:
    """What the point that is written is worth; None where there is no such point, or it is an end."""
    if at is None or at in (0.0, 1.0):
        return None
    if measured.sweep is not None and isinstance(measured.losses, BarrierRecord):
        point = Point(measured.alignment.permutation, at, run.request.blend, polished)
        return told(point_verdict(measured.sweep, point, measured.losses, progress), progress)
    distance = measured.document.distance
    return told(judge_unmeasured([distance.cosine_after], bool(polished)), progress) if distance else None


def recipe_of(run: Run, points: PathPoints, measured: Measured, polished: States) -> PathRecipe:
    """What the points are made with."""
    request, inputs, alignment = run.request, measured.inputs, measured.alignment
    facts = {f"inputs.{role}": entry.sha256 or "" for role, entry in inputs.items()}
    facts["permutation"] = alignment.sha256
    if run.repairer and run.repairs:
        facts["repaired on"] = run.repairer.examples.sha256()
    return PathRecipe(
        spec=request.spec,
        inputs=inputs,
        run=points_run(request, run.pair, points, facts),
        method=alignment.result.method if alignment.result else None,
        seed=request.choice.seed,
        repairer=run.repairer,
        kind=run.repairs[-1] if run.repairs else None,
        blend=request.blend,
        finite=not request.allow_non_finite,
        polish=run.polisher.recipe if run.polisher and polished else "",
        polished=list(polished.values())[-1] if polished else None,
    )


def _picture(measured: BarrierRecord | PlaneRecord, path: Path) -> bytes:
    """The plot of what was measured."""
    from rebasin_cli.report.png import form_of, to_picture

    if isinstance(measured, PlaneRecord):
        from rebasin_cli.report.plane_plot import plane_picture

        return plane_picture(measured, form_of(path))
    return to_picture([("", measured)], form_of(path))
