"""`rebasin apply`: a saved permutation on another checkpoint of the same architecture."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec import structs

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import ContentError
from rebasin_cli.permutation.files import SavedPermutation, load_permutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.function_check import settled_spec, spec_of_permutation
from rebasin_cli.pipeline.inputs import Source, open_source
from rebasin_cli.pipeline.layouts import SpecChoice, bind_one, tell_layout
from rebasin_cli.pipeline.record import architecture_record, input_record, peak_memory, versions
from rebasin_cli.pipeline.same_run import check_same_run
from rebasin_cli.pipeline.targets import Targets, named_or_beside, output_base, tell_room
from rebasin_cli.report.document import CheckedRecord, PlanRecord, RunDocument
from rebasin_cli.spec import Layout, shipped_specs

if TYPE_CHECKING:
    from rebasin_cli.permutation.values import Permutation
    from rebasin_cli.pipeline.data_request import DataRequest


@dataclass(frozen=True, slots=True)
class ApplyRequest:
    """What the user asked for.

    Attributes:
        permutation: a file, or what was read from one; inverse: undo it instead.
        output: where the result goes; None: nothing is written.
        data: names the network.
    """

    permutation: Path | SavedPermutation
    checkpoint: Source
    output: Path | BinaryIO | None
    spec: SpecChoice = field(default_factory=SpecChoice)
    data: DataRequest | None = None
    report: Path | None = None
    inverse: bool = False
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """A permutation that is ready to be applied.

    Attributes:
        request: with the spec that was settled.
        permutation: of the request, or its inverse.
        document: what is known before anything is read.
    """

    request: ApplyRequest
    checkpoint: Checkpoint
    layout: Layout
    permutation: Permutation
    targets: Targets
    document: RunDocument


def apply(request: ApplyRequest, progress: Progress) -> RunDocument:
    """Permute a checkpoint, bit-exactly, and write it.

    Raises:
        RebasinError: it is not the checkpoint's spec, hash or sizes; files of two runs next to it; an output that
            cannot be written.
    """
    with ExitStack() as files:
        run = prepare(request, files, progress)
        if request.dry_run:
            size = run.checkpoint.nbytes
            plan = PlanRecord(size * 2, size, run.targets.written(), peak_memory(), size / 3e8)
            return structs.replace(run.document, plan=plan)
        from rebasin_cli.pipeline.apply_run import carry_out

        return carry_out(run, progress)


def prepare(request: ApplyRequest, files: ExitStack, progress: Progress) -> Run:
    """Judge the permutation and the header; the checkpoint stays open as long as `files`."""
    saved = load_permutation(request.permutation)
    check_same_run(saved)
    checkpoint = files.enter_context(open_source(request.checkpoint, progress))
    request = replace(request, spec=replace(request.spec, symmetry=saved.symmetry, rotates=saved.permutation.has_maps))
    _targets(request).check_places((checkpoint, saved.path), checkpoint, force=request.force)
    if not saved.spec_text:
        request = replace(request, spec=settled_spec(request.spec, request.data, (checkpoint,), progress))
    layout = _layout(saved, checkpoint, request.spec)
    saved.check_fits(layout)
    if saved.symmetry != "permutations":
        from rebasin_cli.pipeline.symmetry import check_types

        check_types(layout, checkpoint, saved.symmetry)
    targets = checked_targets(request, saved, checkpoint, layout, tell_room(request, progress))
    tell_layout(layout, progress)
    permutation = saved.permutation.inverse(layout) if request.inverse else saved.permutation
    document = _document(request, saved, layout, permutation, progress)
    return Run(request, checkpoint, layout, permutation, targets, document)


def checked_targets(
    request: ApplyRequest, saved: SavedPermutation, checkpoint: Checkpoint, layout: Layout,
    tell: Callable[[str], None] | None = None,
) -> Targets:  # fmt: skip
    """The outputs, after everything that forbids to write them was refused."""
    targets = _targets(request)
    targets.check([checkpoint, saved.path, layout.spec.path], checkpoint, force=request.force, tell=tell)
    return targets


def _targets(request: ApplyRequest) -> Targets:
    """Names for the checkpoint and the document, from `-o`."""
    if request.output is None:
        return Targets({}, "applied")
    report = named_or_beside(request.report, output_base(request.output), ".rebasin.json")
    return Targets.of("applied", {"applied": request.output, "report": report})


def _document(
    request: ApplyRequest, saved: SavedPermutation, layout: Layout, permutation: Permutation, progress: Progress
) -> RunDocument:
    """What is known before anything is read: the spec, and what the permutation moves."""
    architecture = architecture_record(layout, request.spec, checked=CheckedRecord(why="`apply` runs no network"))
    moved = {
        name: structs.replace(
            dim,
            moved=permutation.fraction_moved(name),
            turned=permutation.fraction_turned(name) if "signs" in dim.symmetry else None,
        )
        for name, dim in architecture.dims.items()
    }
    return RunDocument(
        command="apply",
        inputs={
            "permutation": input_record(saved.shown, saved.sha256),
            "checkpoint": input_record(request.checkpoint.shown, None),
        },
        architecture=structs.replace(architecture, dims=moved),
        warnings=tuple(progress.warnings),
        versions=versions(),
        invocations=progress.invocations(),
    )


def _layout(saved: SavedPermutation, checkpoint: Checkpoint, choice: SpecChoice) -> Layout:
    """Bind the spec of the permutation; sizes that shapes do not tell are the permutation's own."""
    if choice.arch is None:
        if saved.spec_text:
            choice = spec_of_permutation(saved, choice)
        elif saved.spec_name in shipped_specs():
            choice = replace(choice, arch=saved.spec_name)
        else:
            raise ContentError(
                f"the permutation was made with the spec `{saved.spec_name}`, which does not ship",
                where=str(saved.path),
                remedy="name its file: --arch FILE.yaml",
            )
    layout = bind_one(checkpoint, choice)
    unknown = {
        name: shape[-1]
        for name, shape in saved.sizes.items()
        if name in layout.dims and layout.dims[name].fixed is not None and layout.dims[name].size == 0
    }
    return bind_one(checkpoint, replace(choice, sizes={**choice.sizes, **unknown})) if unknown else layout
