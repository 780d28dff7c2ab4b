"""`rebasin interpolate`: the path from A to B, its loss, and checkpoints along it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.errors import ContentError
from rebasin_cli.matching.objective import measure_distance
from rebasin_cli.matching.result import MatchResult
from rebasin_cli.merging.interpolation import Blend
from rebasin_cli.permutation.files import SavedPermutation, load_permutation, permutation_bytes
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline.choices import SpecChoice
from rebasin_cli.pipeline.function_check import FunctionCheck, prepare_check
from rebasin_cli.pipeline.inputs import open_source, scan_sources
from rebasin_cli.pipeline.interpolate_request import InterpolateRequest, check_weights, checked_grid
from rebasin_cli.pipeline.layouts import Pair, bind_pair, tell_layout
from rebasin_cli.pipeline.match import match_pair, matching_device, resolve_device, tell_identity, with_data
from rebasin_cli.pipeline.methods import MatchChoice, search_record
from rebasin_cli.pipeline.network_spec import settled_spec, spec_of_permutation
from rebasin_cli.pipeline.plan import estimate
from rebasin_cli.pipeline.points import (
    PathPoints,
    PathRecipe,
    check_dtypes,
    check_points_folder,
    tell_lacking,
    write_path,
)
from rebasin_cli.pipeline.points_folder import PointsRun
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.record import (
    architecture_record,
    data_records,
    distance_record,
    input_record,
    match_record,
    peak_memory,
)
from rebasin_cli.pipeline.repairer import Kind, Repairer
from rebasin_cli.pipeline.resume import NO_SWEEP, EarlierSweep, check_same_spec, continued, keeping, read_earlier_sweep
from rebasin_cli.pipeline.scoring import Scorer, prepare_scorer
from rebasin_cli.pipeline.sweep import Sweep, begin_sweep, measure_barrier
from rebasin_cli.pipeline.targets import Targets, beside, document_base, named_or_beside, output_base
from rebasin_cli.pipeline.ties import any_permutation, check_ties
from rebasin_cli.pipeline.versions import versions
from rebasin_cli.report.codec import to_json
from rebasin_cli.report.document import BarrierRecord, InputRecord, RunDocument
from rebasin_cli.report.figures import loss_text


@dataclass(frozen=True, slots=True)
class _Run:
    """A path that is ready to be measured and written.

    Attributes:
        request: with the place of its document, where it is gone on with.
        kept: the document of a sweep that was cut short; before: the run whose permutation is used.
        choice: how to match, with the examples that the method looks at.
        saved: a permutation that is given.
        check: None where B is left as it is.
    """

    request: InterpolateRequest
    kept: EarlierSweep
    before: RunDocument | None
    pair: Pair
    saved: SavedPermutation | None
    points: PathPoints
    targets: Targets
    choice: MatchChoice
    scorer: Scorer | None
    check: FunctionCheck | None
    device: str

    @property
    def repairer(self) -> Repairer | None:
        """What the points are repaired with."""
        return self.scorer.repairer if self.scorer else None

    @property
    def repairs(self) -> tuple[Kind, ...]:
        """How the points are repaired: the last way is that of the points that are written."""
        return self.scorer.repairs if self.scorer else ()


@dataclass(frozen=True, slots=True)
class _Alignment:
    """The permutation, its file, and the match that found it; empty if B is left as it is."""

    permutation: Permutation | None = None
    file: bytes = b""
    result: MatchResult | None = None

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.file).hexdigest()


def interpolate(request: InterpolateRequest, progress: Progress) -> RunDocument:
    """Measure and write the path.

    Raises:
        RebasinError: in the order usage, headers, spec, data, targets, contents.
    """
    asked, (request, kept, before) = request, _resumed(request)
    if before is not asked.document:
        progress.remark(f"nothing is matched again: {request.permutation} was found before")
    grid = checked_grid(request)
    device = resolve_device(request.choice.device)
    with ExitStack() as files:
        a = files.enter_context(open_source(request.a, progress))
        b = files.enter_context(open_source(request.b, progress))
        request = replace(request, spec=_spec(request, (a, b), progress))
        pair = bind_pair(a, b, request.spec)
        check_same_spec(before, pair)
        saved = _saved_permutation(request, pair)
        at = 0.5 if request.best else request.at  # the best one is known later; now it is one point and no folder
        points = PathPoints(request.output, at, grid, a.is_folder)
        replaceable = kept.files()
        targets = _checked_targets(request, pair, points, replaceable)
        choice = with_data(request.choice, request.data, pair, device, progress) if request.matches else request.choice
        scorer, check = _scorer_and_check(request, pair, choice, device, progress)
        run = _Run(request, kept, before, pair, saved, points, targets, choice, scorer, check, device)
        if request.dry_run:
            return _plan(run, progress)
        outputs = files.enter_context(Outputs(force=request.force, ours=replaceable))
        outputs.claim(*targets.paths().values())
        return _carry_out(run, (a, b), outputs, progress)


def _carry_out(run: _Run, ends: tuple[Checkpoint, Checkpoint], outputs: Outputs, progress: Progress) -> RunDocument:
    """Scan, match, measure, write and document a path that is ready."""
    inputs = _scan(run, ends, progress)
    sweep = _begin_sweep(run, inputs)
    alignment = _alignment(run, inputs, progress)
    document = _document(run, inputs, alignment)
    document = _write_permutation(run, alignment, document, outputs)
    document_of = partial(_so_far, document, run.before, progress)
    barrier, points = None, run.points
    if sweep:
        with keeping(run.targets.path("report"), document_of, outputs, progress) as keep:
            barrier = measure_barrier(sweep, alignment.permutation, points.grid, progress=progress, keep=keep)
        if run.request.best:
            points = replace(points, at=_best_point(barrier, progress))
    else:
        progress.remark("no --data, so no loss and no barrier; --data FILE measures them")
    recipe = _recipe(run, points, inputs, alignment)
    written = write_path(points, run.pair, alignment.permutation, recipe, outputs, progress)
    document = document_of(barrier, written, at=points.at if points.output is not None else None)
    _write_reports(document, run.targets, outputs)
    return document


def _resumed(request: InterpolateRequest) -> tuple[InterpolateRequest, EarlierSweep, RunDocument | None]:
    """The request with the place of its document, what was kept there, and the run whose permutation is worked on."""
    place = request.resume
    if place is None:
        return request, NO_SWEEP, request.document
    kept = read_earlier_sweep(place)
    request = replace(request, report=place.absolute())
    if not request.align or request.permutation is not None or request.document is not None:
        return request, kept, request.document
    own = request.save_permutation.absolute() if request.save_permutation else None
    found = None if request.force else kept.permutation(request.choice.method, request.choice.seed)
    if found is not None:
        return replace(request, permutation=found, save_permutation=None if own == found else own), kept, kept.document
    default = beside(document_base(place), ".permutation.safetensors")
    return replace(request, save_permutation=own or default), kept, None


def _spec(request: InterpolateRequest, ends: tuple[Checkpoint, Checkpoint], progress: Progress) -> SpecChoice:
    """The spec that the user named, or the one of the permutation, or of the network."""
    if request.permutation is not None and request.align and request.spec.arch is None:
        return spec_of_permutation(load_permutation(request.permutation), request.spec)
    return settled_spec(request.spec, request.data, ends, progress, permutes=request.align)


def _saved_permutation(request: InterpolateRequest, pair: Pair) -> SavedPermutation | None:
    """The permutation that is given, if it fits."""
    if request.permutation is None or not request.align:
        return None
    saved = load_permutation(request.permutation)
    saved.check_fits(pair.layout)
    return saved


def _checked_targets(
    request: InterpolateRequest, pair: Pair, points: PathPoints, replaceable: Collection[Path]
) -> Targets:
    """The outputs, after everything that forbids to write them was refused."""
    targets = _targets(request, points)
    check_weights(request, pair)
    others = [*request.files(), pair.layout.spec.path]
    if points.output is not None:
        check_dtypes(pair)
    targets.check(
        (pair.a, pair.b, *others), pair.a,
        force=request.force, replaceable=replaceable, points=points.in_folder(),
    )  # fmt: skip
    check_points_folder(points, pair, others, _points_run(request, pair, points, {}), force=request.force)
    return targets


def _targets(request: InterpolateRequest, points: PathPoints) -> Targets:
    """Name every output; the document lies beside the checkpoints unless it is named."""
    base = output_base(points.output) if points.output is not None else None
    small = {
        "plot": request.plot,
        "permutation": request.save_permutation,
        "report": named_or_beside(request.report, base, ".rebasin.json"),
    }
    return Targets.of(points.role, {**small, points.role: points.output})


def _scorer_and_check(
    request: InterpolateRequest, pair: Pair, choice: MatchChoice, device: str, progress: Progress
) -> tuple[Scorer | None, FunctionCheck | None]:
    """What the points are judged by, and what sees that B stays the same network."""
    data = request.data if request.judged else None
    scorer = prepare_scorer(data, pair.layout, pair.a, device, progress) if data else None
    if request.document is None:
        tell_layout(pair.layout, progress)
    tell_lacking(pair, progress)
    if not request.align:
        return scorer, None
    return scorer, prepare_check(pair, device, progress, scorer=scorer, fitting=choice.fitting, data=request.data)


def _scan(run: _Run, ends: tuple[Checkpoint, Checkpoint], progress: Progress) -> dict[str, InputRecord]:
    """Read both checkpoints once, and refuse what would not stay the same network."""
    request, pair = run.request, run.pair
    a, b = ends
    known = {role: entry.sha256 for role, entry in request.document.inputs.items()} if request.document else {}
    heads: dict[str, Mapping[str, int]] = {}
    inputs = scan_sources({"a": (request.a, a), "b": (request.b, b)}, progress, known, heads)
    if run.check:
        drawn = [run.saved.permutation] if run.saved else any_permutation(pair.layout)
        check_ties(pair.layout_b, b, heads["b"], drawn)
        run.check.spec(pair.layout, request.choice.seed, pair.b, pair.a)
    return inputs


def _begin_sweep(run: _Run, inputs: Mapping[str, InputRecord]) -> Sweep | None:
    """Measure A, if there is something to judge it by."""
    request = run.request
    if run.scorer is None:
        return None
    along = Blend(request.blend.how)
    return begin_sweep(
        run.scorer, run.pair, request.spec, inputs, run.points.grid, blend=along, kept=run.kept, force=request.force
    )  # fmt: skip


def _alignment(run: _Run, inputs: Mapping[str, InputRecord], progress: Progress) -> _Alignment:
    """Take the permutation that is given, or match."""
    request, pair = run.request, run.pair
    result = None
    if not request.align:
        return _Alignment()
    if run.saved is not None:
        _check_saved(request, run.saved, inputs, progress)
        permutation = run.saved.permutation
    elif request.document is not None:
        progress.warn("the piped run has no permutation file, so that only the naive path is measured")
        return _Alignment()
    else:
        result = match_pair(pair, run.choice, matching_device(run.choice, pair.layout), progress, inputs)
        permutation = result.permutation
    if run.check:
        run.check.found(pair.layout, permutation, pair.b, pair.a)
    of = {role: entry.identity for role, entry in inputs.items()}
    return _Alignment(permutation, permutation_bytes(permutation, pair.layout, inputs=of), result)


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


def _document(run: _Run, inputs: Mapping[str, InputRecord], alignment: _Alignment) -> RunDocument:
    """What is known before the path is measured."""
    pair, permutation = run.pair, alignment.permutation
    checked = run.check.record() if run.check and permutation is not None else None
    distance = measure_distance(pair.layout, pair.a, pair.b, permutation or Permutation({}))
    return RunDocument(
        command="interpolate",
        inputs=_all_inputs(run.request, inputs),
        architecture=architecture_record(pair.layout, run.request.spec, distance, checked),
        match=match_record(alignment.result) if alignment.result else None,
        distance=distance_record(distance),
        versions=versions(),
        device=run.device,
    )


def _all_inputs(request: InterpolateRequest, inputs: Mapping[str, InputRecord]) -> dict[str, InputRecord]:
    found = dict(inputs)
    if request.permutation and request.align:
        found["permutation"] = input_record(request.permutation, None)
    return found | (data_records(request.data) if request.data else {})


def _write_permutation(run: _Run, alignment: _Alignment, document: RunDocument, outputs: Outputs) -> RunDocument:
    """Write the permutation if it is asked for, and return the document that tells of it.

    It is written before the sweep and the points, so that they can be cut short and gone on with without a match.
    """
    path = run.targets.path("permutation")
    if path is None or alignment.permutation is None:
        return document
    outputs.write(path, alignment.file, at_once=run.scorer is not None or run.points.at is None)
    return replace(document, outputs={"permutation": str(path)}, hashes={"permutation": alignment.sha256})


def _so_far(
    document: RunDocument,
    before: RunDocument | None,
    progress: Progress,
    barrier: BarrierRecord | None,
    written: Mapping[str, str] | None = None,
    at: float | None = None,
) -> RunDocument:
    """What is known of the path so far, together with what an earlier run found."""
    outputs = {**document.outputs, **(written or {})}
    now = replace(
        document, barrier=barrier, outputs=outputs, warnings=tuple(progress.warnings), at=at,
        peak_memory_bytes=peak_memory(),
    )  # fmt: skip
    return continued(before, now)


def _best_point(barrier: BarrierRecord, progress: Progress) -> float:
    """The λ between the ends with the lowest loss on the curve that is written.

    An end is a network that is there already, and no merge: where it is better, that is said.

    Raises:
        ContentError: no loss could be measured.
    """
    losses = barrier.best[1].loss if barrier.best else ()
    (_, at_a), *inside, (_, at_b) = zip(barrier.lam, losses, strict=True)
    finite = [(loss, lam) for lam, loss in inside if isfinite(loss)]
    if not finite:
        raise ContentError("--at best: no point between the ends has a loss", remedy="say which point: --at 0.5")
    loss, lam = min(finite)
    progress.remark(
        f"the lowest loss between the ends is {loss_text(loss)}, at λ = {lam:g}: chosen on the examples it was "
        "measured on"
    )
    better = [f"{name} alone has {loss_text(end)}" for name, end in (("A", at_a), ("B", at_b)) if end <= loss]
    if better:
        progress.warn(f"no merge is better than the ends: {' and '.join(better)}, the best merge {loss_text(loss)}")
    return lam


def _recipe(run: _Run, points: PathPoints, inputs: Mapping[str, InputRecord], alignment: _Alignment) -> PathRecipe:
    """What the points are made with."""
    request = run.request
    facts = {f"inputs.{role}": entry.sha256 or "" for role, entry in inputs.items()}
    facts["permutation"] = alignment.sha256
    if run.repairer and run.repairs:
        facts["repaired on"] = run.repairer.examples.sha256()
    return PathRecipe(
        spec=request.spec,
        inputs=inputs,
        run=_points_run(request, run.pair, points, facts),
        method=alignment.result.method if alignment.result else None,
        seed=request.choice.seed,
        repairer=run.repairer,
        kind=run.repairs[-1] if run.repairs else None,
        blend=request.blend,
        finite=not request.allow_non_finite,
    )


def _points_run(request: InterpolateRequest, pair: Pair, points: PathPoints, facts: Mapping[str, str]) -> PointsRun:
    """What a folder of points is made from, as far as it is known.

    Args:
        facts: hashes that only come with the contents.
    """
    spec, blend, choice = request.spec, request.blend, request.choice
    repairs = request.data.repairs if request.data else ()
    made_of = {
        "spec": pair.layout.spec.sha256,
        "--set": ",".join(f"{name}={size}" for name, size in sorted(spec.sizes.items())),
        "--freeze": ",".join(spec.freeze),
        "--ignore": ",".join(spec.ignore),
        "--combine": blend.how,
        "--weight": ",".join(f"{pattern}={own:g}" for pattern, own in blend.weights),
        "--align": str(request.align),
        "--repair": repairs[-1] if repairs else "",
    }
    match = search_record(choice) if request.matches else {}
    return PointsRun({**made_of, **facts}, match, tuple(sorted(path.name for path in points.files().values())))


def _write_reports(document: RunDocument, targets: Targets, outputs: Outputs) -> None:
    if (path := targets.path("plot")) and document.barrier:
        from rebasin_cli.report.png import to_png

        outputs.write(path, to_png(document.barrier))
    if path := targets.path("report"):
        outputs.write(path, to_json(document).encode())


def _plan(run: _Run, progress: Progress) -> RunDocument:
    """What the path would cost."""
    request, pair, points = run.request, run.pair, run.points
    examples = run.scorer.examples if run.scorer else 0
    return RunDocument(
        command="interpolate",
        inputs={"a": input_record(request.a.shown, None), "b": input_record(request.b.shown, None)},
        architecture=architecture_record(pair.layout, request.spec),
        warnings=tuple(progress.warnings),
        versions=versions(),
        plan=estimate(
            pair, writes=points.count() * pair.a.nbytes, targets=run.targets.planned(), matched=request.matches,
            passes=2 + points.count(), examples=examples, points=2 * len(points.grid) if examples else 0,
        ),
    )  # fmt: skip
