"""`rebasin interpolate`: the path from A to B, its loss, and checkpoints along it."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import BinaryIO

from rebasin_cli.checkpoints import Outputs
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.matching import Distance, MatchResult, measure_distance
from rebasin_cli.merging import LINE, Blend, check_lambda, lambda_grid
from rebasin_cli.permutation import Permutation, SavedPermutation, load_permutation, permutation_bytes
from rebasin_cli.pipeline.binding import Pair, bind_pair, tell_layout
from rebasin_cli.pipeline.checking import prepare_check
from rebasin_cli.pipeline.choices import SpecChoice
from rebasin_cli.pipeline.continuing import NOTHING, Kept, check_same_spec, continued, keeping, read_kept
from rebasin_cli.pipeline.curves import begin_sweep, measure_barrier
from rebasin_cli.pipeline.examples import DataRequest
from rebasin_cli.pipeline.inputs import Source, open_source, scan_sources
from rebasin_cli.pipeline.judges import prepare_judge
from rebasin_cli.pipeline.listener import Listener
from rebasin_cli.pipeline.match import match_pair, matching_device, resolve_device, tell_identity, with_data
from rebasin_cli.pipeline.methods import MatchChoice, search_longer, search_record
from rebasin_cli.pipeline.path import (
    PathPoints,
    PathRecipe,
    check_dtypes,
    check_points_folder,
    tell_lacking,
    write_path,
)
from rebasin_cli.pipeline.plan import estimate
from rebasin_cli.pipeline.points import PointsRun
from rebasin_cli.pipeline.record import architecture_record, distance_record, input_record, match_record, peak_memory
from rebasin_cli.pipeline.targets import Targets, beside, document_base, named_or_beside, output_base
from rebasin_cli.pipeline.ties import any_permutation, check_ties
from rebasin_cli.pipeline.versions import versions
from rebasin_cli.report.codec import to_json
from rebasin_cli.report.document import BarrierRecord, CheckedRecord, InputRecord, RunDocument
from rebasin_cli.report.figures import loss_text
from rebasin_cli.safe_text import shell_word


@dataclass(frozen=True, slots=True)
class InterpolateRequest:
    """What the user asked for.

    Attributes:
        document: what the command before the pipe did; its inputs are a and b, and nothing is matched again.
        align: False leaves B as it is (`--no-align`).
        permutation: a permutation file to take instead of matching.
        at: the one λ to write; None writes every point of the grid, if there is an output.
        best: write the point of the grid with the lowest loss, the ends aside (`--at best`); `at` does not count then.
        blend: how the points are combined; weights of its own are for the one point that is written.
        resume: the document that is kept while sweeping, and gone on from if it is there.
        output: a checkpoint (with `at`), a folder of checkpoints (without), or a pipe.
    """

    a: Source
    b: Source
    spec: SpecChoice = field(default_factory=SpecChoice)
    document: RunDocument | None = None
    align: bool = True
    permutation: Path | None = None
    steps: int = 25
    at: float | None = None
    best: bool = False
    blend: Blend = LINE
    data: DataRequest | None = None
    output: Path | BinaryIO | None = None
    save_permutation: Path | None = None
    plot: Path | None = None
    report: Path | None = None
    resume: Path | None = None
    choice: MatchChoice = field(default_factory=MatchChoice)
    force: bool = False
    dry_run: bool = False
    allow_non_finite: bool = False

    @property
    def judged(self) -> bool:
        """Whether the path has a loss."""
        return self.data is not None and self.data.judges


@dataclass(frozen=True, slots=True)
class _Alignment:
    """π and how it was come by; all None if B is left as it is."""

    permutation: Permutation | None = None
    result: MatchResult | None = None
    saved: SavedPermutation | None = None


def interpolate(request: InterpolateRequest, listener: Listener) -> RunDocument:
    """Measure and write the path.

    Raises:
        RebasinError: in the order usage, headers, spec, data, targets, contents.
    """
    request, kept, before = _resumed(request)
    if before is not request.document:
        listener.remark(f"nothing is matched again: {request.permutation} was found before")
    grid = _checked_grid(request)
    device = resolve_device(request.choice.device)
    with ExitStack() as files:
        a = files.enter_context(open_source(request.a, listener))
        b = files.enter_context(open_source(request.b, listener))
        pair = bind_pair(a, b, request.spec)
        check_same_spec(before, pair)
        saved = load_permutation(request.permutation) if request.permutation and request.align else None
        if saved:
            saved.check_fits(pair.layout)
        at = 0.5 if request.best else request.at  # the best one is known later; now it is one point and no folder
        points = PathPoints(request.output, at, grid, a.is_folder)
        targets = _targets(request, points)
        _check_weights(request, pair)
        ours = kept.files()
        others = [*_other_inputs(request), pair.layout.spec.path]
        if points.output is not None:
            check_dtypes(pair)
        targets.check([a, pair.b, *others], a, force=request.force, replaceable=ours, points=points.in_folder())
        check_points_folder(points, pair, others, _points_run(request, pair, points, {}), force=request.force)
        matched = request.align and saved is None and request.document is None
        choice = with_data(request.choice, request.data, pair, device, listener) if matched else request.choice
        data = request.data if request.judged else None
        judge = prepare_judge(data, pair.layout, a, device, listener) if data else None
        if request.document is None:
            tell_layout(pair.layout, listener)
        tell_lacking(pair, listener)
        check = None
        if request.align:
            check = prepare_check(pair, device, listener, judge=judge, fitting=choice.fitting)
        if request.dry_run:
            return _plan(request, pair, targets, points, judge.examples if judge else 0, listener)
        outputs = files.enter_context(Outputs(force=request.force, ours=ours))
        outputs.claim(*targets.paths().values())
        known = {role: entry.sha256 for role, entry in request.document.inputs.items()} if request.document else {}
        heads: dict[str, Mapping[str, int]] = {}
        inputs = scan_sources({"a": (request.a, a), "b": (request.b, b)}, listener, known, heads)
        if check:
            check_ties(pair.layout_b, b, heads["b"], [saved.permutation] if saved else any_permutation(pair.layout))
            check.spec(pair.layout, request.choice.seed, pair.b, pair.a)
        sweep = None
        if judge:
            along = Blend(request.blend.how)
            sweep = begin_sweep(judge, pair, request.spec, inputs, grid, blend=along, kept=kept, force=request.force)
        alignment = _alignment(request, pair, saved, inputs, choice, listener)
        permutation = alignment.permutation
        if check and permutation is not None:
            check.found(pair.layout, permutation, pair.b, pair.a)
        checked = check.record() if check and permutation is not None else None
        distance = measure_distance(pair.layout, pair.a, pair.b, permutation or Permutation({}))
        written: dict[str, str] = {}
        hashes: dict[str, str] = {}
        found = b""
        if permutation is not None:
            of = {role: entry.identity for role, entry in inputs.items()}
            found = permutation_bytes(permutation, pair.layout, inputs=of)
        if "permutation" in targets.places and permutation is not None:
            # Before the sweep and the points, so that it is not matched for again when they are cut short.
            place = targets.paths()["permutation"]
            outputs.write(place, found, at_once=sweep is not None or points.at is None)
            written["permutation"] = str(place)
            hashes["permutation"] = hashlib.sha256(found).hexdigest()
        document = _document(request, pair, inputs, alignment, checked, distance)
        document_of = partial(_so_far, replace(document, device=device), before, listener, hashes)
        barrier = None
        if sweep:
            with keeping(
                targets.path("report"), lambda so_far: document_of(so_far, written), outputs, listener
            ) as keep:
                barrier = measure_barrier(sweep, permutation, grid, listener=listener, keep=keep)
            if request.best:
                points = replace(points, at=_best_point(barrier, listener))
        else:
            listener.remark("no --data, so no loss and no barrier; --data FILE measures them")
        facts = {f"inputs.{role}": entry.sha256 or "" for role, entry in inputs.items()}
        facts["permutation"] = hashlib.sha256(found).hexdigest()
        if judge and judge.repairer and judge.repairs:
            facts["repaired on"] = judge.repairer.examples.sha256()
        run = _points_run(request, pair, points, facts)
        recipe = PathRecipe(
            request.spec, inputs, run, alignment.result.method if alignment.result else None, request.choice.seed,
            judge.repairer if judge else None, judge.repairs[-1] if judge and judge.repairs else None,
            request.blend, not request.allow_non_finite,
        )  # fmt: skip
        written |= write_path(points, pair, permutation, recipe, outputs, listener)
        document = document_of(barrier, written, at=points.at if points.output is not None else None)
        _write_reports(document, targets, outputs)
    return document


def better_optimum(request: InterpolateRequest) -> str:
    """What may bring the barrier down, of what this run has not done."""
    if not request.align:
        return "leave --no-align away: B was measured in its own order"
    if request.permutation is not None or request.document is not None:
        named = " ".join(shell_word(os.path.abspath(source.shown)) for source in (request.a, request.b))
        return f"`rebasin align {named} --quality high` may find a better permutation than the one that was given"
    options = search_longer(request.choice) + (" --force" if request.resume else "")
    return f"`{options}` may find a better optimum"


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
    matched = request.align and request.permutation is None and request.document is None
    match = search_record(choice) if matched else {}
    return PointsRun({**made_of, **facts}, match, tuple(sorted(path.name for path in points.files().values())))


def _resumed(request: InterpolateRequest) -> tuple[InterpolateRequest, Kept, RunDocument | None]:
    """The request with the place of its document, what was kept there, and the run whose permutation is worked on."""
    place = request.resume
    if place is None:
        return request, NOTHING, request.document
    kept = read_kept(place)
    request = replace(request, report=place.absolute())
    if not request.align or request.permutation is not None or request.document is not None:
        return request, kept, request.document
    own = request.save_permutation.absolute() if request.save_permutation else None
    found = None if request.force else kept.permutation(request.choice.method, request.choice.seed)
    if found is not None:
        return replace(request, permutation=found, save_permutation=None if own == found else own), kept, kept.document
    default = beside(document_base(place), ".permutation.safetensors")
    return replace(request, save_permutation=own or default), kept, None


def _checked_grid(request: InterpolateRequest) -> tuple[float, ...]:
    """The λ of the path, after every combination of options that cannot be carried out was refused."""
    if request.best and not request.judged:
        raise UsageError("--at best chooses by the loss, and without data there is none", remedy="add --data FILE")
    if request.best and request.steps < 3:
        raise UsageError(
            f"--at best chooses between the ends, and --steps {request.steps} has no point there",
            remedy="--steps 3 or more; 25 is usual",
        )
    if request.blend.weights and request.at is None:
        raise UsageError("--weight is for the one point that is written", remedy="name it: --at 0.5")
    for _, own in request.blend.weights:
        check_lambda(own)
    if request.at is not None or request.best:
        check_lambda(request.at or 0.0)
        if request.output is None:
            raise UsageError("--at names a point to write, and there is no output", remedy="add -o FILE.safetensors")
    elif request.output is not None and not isinstance(request.output, Path):
        raise UsageError("-o - streams one checkpoint", remedy="say which: --at 0.5 -o -")
    if request.plot and not request.judged:
        raise UsageError("--plot draws losses, and without data there are none", remedy="add --data FILE")
    if request.permutation and not request.align and request.document is None:
        raise UsageError("--permutation and --no-align contradict each other", remedy="leave one of them away")
    if request.save_permutation and not request.align:
        raise UsageError("--save-permutation: with --no-align there is none", remedy="leave one of them away")
    if request.plot:
        from rebasin_cli.report.png import require_matplotlib

        require_matplotlib()
    return lambda_grid(request.steps)


def _best_point(barrier: BarrierRecord, listener: Listener) -> float:
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
    listener.remark(
        f"the lowest loss between the ends is {loss_text(loss)}, at λ = {lam:g}: chosen on the examples it was "
        "measured on"
    )
    better = [f"{name} alone has {loss_text(end)}" for name, end in (("A", at_a), ("B", at_b)) if end <= loss]
    if better:
        listener.warn(f"no merge is better than the ends: {' and '.join(better)}, the best merge {loss_text(loss)}")
    return lam


def _targets(request: InterpolateRequest, points: PathPoints) -> Targets:
    """Name every output; the document lies beside the checkpoints unless it is named."""
    base = output_base(points.output) if points.output is not None else None
    small = {
        "plot": request.plot,
        "permutation": request.save_permutation,
        "report": named_or_beside(request.report, base, ".rebasin.json"),
    }
    return Targets.of(points.role, {**small, points.role: points.output})


def _check_weights(request: InterpolateRequest, pair: Pair) -> None:
    """Every pattern of `--weight` is for some tensor that the spec knows."""
    known = [key for key, bound in pair.layout.tensors.items() if bound.section != "ignored"]
    for pattern, _ in request.blend.weights:
        if not fnmatch.filter(known, pattern):
            raise UsageError(
                f"--weight {pattern}: no tensor is called so", remedy="`rebasin inspect` lists the tensors; quote the *"
            )


def _alignment(
    request: InterpolateRequest,
    pair: Pair,
    saved: SavedPermutation | None,
    inputs: Mapping[str, InputRecord],
    choice: MatchChoice,
    listener: Listener,
) -> _Alignment:
    """Take the permutation that is there, or match."""
    if not request.align:
        return _Alignment()
    if saved is not None:
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
            listener.warn(f"{saved.path.name} was made for another {which}: it need not be an optimum for these two")
        tell_identity(saved.permutation, listener, inputs)
        return _Alignment(saved.permutation, saved=saved)
    if request.document is not None:
        listener.warn("the piped run has no permutation file, so that only the naive path is measured")
        return _Alignment()
    result = match_pair(pair, choice, matching_device(choice, pair.layout), listener, inputs)
    return _Alignment(result.permutation, result)


def _of_document(document: RunDocument, path: Path) -> bool:
    """Whether the permutation is the one that the document names, and not one that the user named instead."""
    named = document.outputs.get("permutation")
    return named is not None and Path(named).absolute() == path.absolute()


def _document(
    request: InterpolateRequest,
    pair: Pair,
    inputs: Mapping[str, InputRecord],
    alignment: _Alignment,
    checked: CheckedRecord | None,
    distance: Distance,
) -> RunDocument:
    """What is known before the path is measured."""
    return RunDocument(
        command="interpolate",
        inputs=_all_inputs(request, inputs),
        architecture=architecture_record(pair.layout, request.spec, distance, checked),
        match=match_record(alignment.result) if alignment.result else None,
        distance=distance_record(distance),
        versions=versions(),
    )


def _so_far(
    document: RunDocument,
    before: RunDocument | None,
    listener: Listener,
    hashes: Mapping[str, str],
    barrier: BarrierRecord | None,
    outputs: Mapping[str, str],
    at: float | None = None,
) -> RunDocument:
    """What is known of the path so far, together with what an earlier run found."""
    now = replace(
        document, barrier=barrier, outputs=dict(outputs), hashes=dict(hashes), warnings=tuple(listener.warnings), at=at,
        peak_memory_bytes=peak_memory(),
    )  # fmt: skip
    return continued(before, now)


def _other_inputs(request: InterpolateRequest) -> list[Path]:
    data = request.data.inputs() if request.data else []
    return data + ([request.permutation] if request.permutation else [])


def _all_inputs(request: InterpolateRequest, inputs: Mapping[str, InputRecord]) -> dict[str, InputRecord]:
    found = dict(inputs)
    if request.permutation and request.align:
        found["permutation"] = input_record(request.permutation, None)
    if request.data:
        roles = (("data", request.data.path), ("fit-data", request.data.fit))
        files = request.data.files()
        found |= {role: input_record(path, None) for role, path in roles if path is not None and path in files}
    return found


def _write_reports(document: RunDocument, targets: Targets, outputs: Outputs) -> None:
    if (path := targets.path("plot")) and document.barrier:
        from rebasin_cli.report.png import to_png

        outputs.write(path, to_png(document.barrier))
    if path := targets.path("report"):
        outputs.write(path, to_json(document).encode())


def _plan(
    request: InterpolateRequest,
    pair: Pair,
    targets: Targets,
    points: PathPoints,
    examples: int,
    listener: Listener,
) -> RunDocument:
    count = points.count()
    matched = request.align and request.permutation is None and request.document is None
    return RunDocument(
        command="interpolate",
        inputs={"a": input_record(request.a.shown, None), "b": input_record(request.b.shown, None)},
        architecture=architecture_record(pair.layout, request.spec),
        warnings=tuple(listener.warnings),
        versions=versions(),
        plan=estimate(
            pair, writes=count * pair.a.nbytes, targets=targets.planned(),
            matched=matched, passes=2 + count, examples=examples, points=2 * len(points.grid) if examples else 0,
        ),
    )  # fmt: skip
