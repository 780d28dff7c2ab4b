"""`rebasin interpolate`: the path from A to B, its loss, and checkpoints along it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.evaluation.options import Kind
from rebasin_cli.matching.resources import resolve_device
from rebasin_cli.permutation.files import SavedPermutation, load_permutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.function_check import FunctionCheck, prepare_check, settled_spec, spec_of_permutation
from rebasin_cli.pipeline.inputs import open_source
from rebasin_cli.pipeline.interpolate_request import InterpolateRequest, check_weights, checked_grid
from rebasin_cli.pipeline.layouts import Pair, SpecChoice, bind_pair, check_symmetry, tell_layout
from rebasin_cli.pipeline.method_choice import MatchChoice, search_record, with_data
from rebasin_cli.pipeline.plan import estimate
from rebasin_cli.pipeline.points import PathPoints, check_dtypes, check_points_folder, check_points_name, tell_lacking
from rebasin_cli.pipeline.points_folder import PointsRun
from rebasin_cli.pipeline.record import (
    architecture_record,
    input_record,
    versions,
)
from rebasin_cli.pipeline.resume import NO_SWEEP, EarlierSweep, check_same_spec, read_earlier_sweep
from rebasin_cli.pipeline.targets import Targets, beside, document_base, named_or_beside, output_base, tell_room
from rebasin_cli.process import load_torch
from rebasin_cli.report.document import RunDocument

if TYPE_CHECKING:  # examples and networks, which not every path has
    from rebasin_cli.pipeline.polisher import Polisher
    from rebasin_cli.pipeline.scoring import Scorer
    from rebasin_cli.pipeline.statistics import Repairer


@dataclass(frozen=True, slots=True)
class Run:
    """A path that is ready to be measured and written.

    Attributes:
        request: with the place of its document, where it is gone on with.
        kept: the document of a sweep that was cut short; before: the run whose permutation is used.
        ends: the checkpoints as they were opened, of which the second of `pair` may be a view.
        choice: how to match, with the examples that the method looks at.
        saved: a permutation that is given.
        check: None where B is left as it is; polisher: where the point that is written is fitted to both ends.
    """

    request: InterpolateRequest
    kept: EarlierSweep
    before: RunDocument | None
    ends: tuple[Checkpoint, Checkpoint]
    pair: Pair
    saved: SavedPermutation | None
    points: PathPoints
    targets: Targets
    choice: MatchChoice
    scorer: Scorer | None
    check: FunctionCheck | None
    device: str
    polisher: Polisher | None = None

    @property
    def repairer(self) -> Repairer | None:
        """What the points are repaired with."""
        return self.scorer.repairer if self.scorer else None

    @property
    def measurements(self) -> int:
        """How many points are judged, repairs aside."""
        plane = self.request.plane
        return plane.steps**2 if plane else 2 * len(self.points.grid)

    @property
    def repairs(self) -> tuple[Kind, ...]:
        """How the points are repaired: the last way is that of the points that are written."""
        return self.scorer.repairs if self.scorer else ()


def interpolate(request: InterpolateRequest, progress: Progress) -> RunDocument:
    """Measure and write the path.

    Raises:
        RebasinError: in the order usage, headers, spec, data, targets, contents.
    """
    with ExitStack() as files:
        run = prepare(request, files, progress)
        if request.dry_run:
            return _plan(run, progress)
        load_torch()
        from rebasin_cli.pipeline.interpolate_run import carry_out

        return carry_out(run, progress)


def prepare(request: InterpolateRequest, files: ExitStack, progress: Progress) -> Run:
    """Judge everything that headers tell; the checkpoints stay open as long as `files`."""
    asked, (request, kept, before) = request, _resumed(request)
    if before is not asked.document:
        progress.remark(f"nothing is matched again: {request.permutation} was found before")
    grid = checked_grid(request)
    device = resolve_device(request.choice.device)
    a = files.enter_context(open_source(request.a, progress))
    b = files.enter_context(open_source(request.b, progress))
    at = 0.5 if request.best else request.at  # the best one is known later; now it is one point and no folder
    points = PathPoints(request.output, at, grid, a.is_folder)
    check_points_name(points, force=request.force)
    _targets(request, points).check_places(
        (a, b), a, force=request.force, replaceable=kept.files(), is_folder_of_points=points.in_folder() is not None
    )
    request = replace(request, spec=_spec(request, (a, b), progress))
    pair = bind_pair(a, b, request.spec)
    check_symmetry([pair], request.spec)
    check_same_spec(before, pair)
    saved = _saved_permutation(request, pair)
    targets = checked_targets(request, pair, points, kept.files(), tell_room(request, progress))
    choice = with_data(request.choice, request.data, pair, device, progress) if request.matches else request.choice
    scorer, check = _scorer_and_check(request, pair, choice, device, progress)
    polisher = request.data.polisher(pair, device, progress, scorer) if request.data else None
    return Run(request, kept, before, (a, b), pair, saved, points, targets, choice, scorer, check, device, polisher)


def _resumed(request: InterpolateRequest) -> tuple[InterpolateRequest, EarlierSweep, RunDocument | None]:
    """The request with the place of its document, what was kept there, and the run whose permutation is worked on."""
    place = request.resume
    if place is None:
        return request, NO_SWEEP, request.document
    kept = read_earlier_sweep(place, request.command)
    request = replace(request, report=place.absolute())
    if not request.align or request.permutation is not None or request.document is not None:
        return request, kept, request.document
    own = request.save_permutation.absolute() if request.save_permutation else None
    found = (
        None if request.force else kept.permutation(request.choice.method, request.choice.seed, request.spec.symmetry)
    )
    if found is not None:
        return replace(request, permutation=found, save_permutation=None if own == found else own), kept, kept.document
    default = beside(document_base(place), ".permutation.safetensors")
    return replace(request, save_permutation=own or default), kept, None


def _spec(request: InterpolateRequest, ends: tuple[Checkpoint, Checkpoint], progress: Progress) -> SpecChoice:
    """The spec that the user named, or the one of the permutation, or of the network."""
    choice = request.spec.for_method(request.choice.method if request.matches else "weights")
    if request.permutation is not None and request.align:
        saved = load_permutation(request.permutation)
        if saved.symmetry != "permutations":
            choice = replace(choice, symmetry=saved.symmetry, rotates=saved.permutation.has_maps)
        if choice.arch is None:
            return spec_of_permutation(saved, choice)
    return settled_spec(choice, request.data, ends, progress, permutes=request.align)


def _saved_permutation(request: InterpolateRequest, pair: Pair) -> SavedPermutation | None:
    """The permutation that is given, if it fits."""
    if request.permutation is None or not request.align:
        return None
    saved = load_permutation(request.permutation)
    saved.check_fits(pair.layout)
    return saved


def checked_targets(
    request: InterpolateRequest, pair: Pair, points: PathPoints, replaceable: Collection[Path],
    tell: Callable[[str], None] | None = None,
) -> Targets:  # fmt: skip
    """The outputs, after everything that forbids to write them was refused."""
    targets = _targets(request, points)
    check_weights(request, pair)
    others = [*request.files(), pair.layout.spec.path]
    if points.output is not None:
        check_dtypes(pair)
    targets.check(
        (pair.a, pair.b, *others), pair.a,
        force=request.force, replaceable=replaceable, points=points.in_folder(), tell=tell,
    )  # fmt: skip
    check_points_folder(points, pair, others, points_run(request, pair, points, {}), force=request.force, tell=tell)
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
    scorer = request.data.scorer(pair, device, progress) if request.data else None
    if request.document is None:
        tell_layout(pair.layout, progress, request.spec if request.matches else None)
    tell_lacking(pair, progress)
    if not request.align:
        return scorer, None
    return scorer, prepare_check(pair, device, progress, scorer=scorer, fitting=choice.fitting, data=request.data)


def points_run(request: InterpolateRequest, pair: Pair, points: PathPoints, facts: Mapping[str, str]) -> PointsRun:
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
    if spec.symmetry != "permutations":
        made_of["--symmetry"] = spec.symmetry
    match = search_record(choice) if request.matches else {}
    return PointsRun({**made_of, **facts}, match, tuple(sorted(path.name for path in points.files().values())))


def _plan(run: Run, progress: Progress) -> RunDocument:
    """What the path would cost."""
    request, pair, points = run.request, run.pair, run.points
    examples = run.scorer.examples if run.scorer else 0
    return RunDocument(
        command=request.command,
        inputs={"a": input_record(request.a.shown, None), "b": input_record(request.b.shown, None)},
        architecture=architecture_record(pair.layout, request.spec),
        warnings=tuple(progress.warnings),
        versions=versions(),
        invocations=progress.invocations(),
        plan=estimate(
            pair, writes=points.count() * pair.a.nbytes, targets=run.targets.planned(), matched=request.matches,
            passes=2 + points.count(), examples=examples, points=run.measurements if examples else 0,
        ),
    )  # fmt: skip
