"""`rebasin apply`: a saved permutation on another checkpoint of the same architecture."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec import structs

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import ContentError
from rebasin_cli.files import sha256_of
from rebasin_cli.permutation.files import SavedPermutation, load_permutation
from rebasin_cli.pipeline.choices import SpecChoice
from rebasin_cli.pipeline.inputs import Source, open_source, scan_sources
from rebasin_cli.pipeline.layouts import bind_one, tell_layout
from rebasin_cli.pipeline.network_spec import settled_spec, spec_of_permutation
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.record import architecture_record, input_record, output_metadata, peak_memory
from rebasin_cli.pipeline.same_run import check_same_run
from rebasin_cli.pipeline.targets import Targets, named_or_beside, output_base
from rebasin_cli.pipeline.versions import versions
from rebasin_cli.report.codec import document_file
from rebasin_cli.report.document import CheckedRecord, PlanRecord, RunDocument
from rebasin_cli.spec import Layout, shipped_specs

if TYPE_CHECKING:
    from rebasin_cli.permutation.values import Permutation
    from rebasin_cli.pipeline.data_request import DataRequest


@dataclass(frozen=True, slots=True)
class ApplyRequest:
    """What the user asked for; `inverse` undoes it instead, `data` names the network."""

    permutation: Path
    checkpoint: Source
    output: Path | BinaryIO
    spec: SpecChoice = field(default_factory=SpecChoice)
    data: DataRequest | None = None
    report: Path | None = None
    inverse: bool = False
    force: bool = False
    dry_run: bool = False


def apply(request: ApplyRequest, progress: Progress) -> RunDocument:
    """Permute a checkpoint, bit-exactly, and write it.

    Raises:
        RebasinError: it is not the checkpoint's spec, hash or sizes; files of two runs next to it; an output that
            cannot be written.
    """
    saved = load_permutation(request.permutation)
    check_same_run(saved)
    with ExitStack() as files:
        checkpoint = files.enter_context(open_source(request.checkpoint, progress))
        if not saved.spec_text:
            request = replace(request, spec=settled_spec(request.spec, request.data, (checkpoint,), progress))
        layout = _layout(saved, checkpoint, request.spec)
        saved.check_fits(layout)
        report = named_or_beside(request.report, output_base(request.output), ".rebasin.json")
        targets = Targets.of("applied", {"applied": request.output, "report": report})
        targets.check([checkpoint, request.permutation, layout.spec.path], checkpoint, force=request.force)
        tell_layout(layout, progress)
        permutation = saved.permutation.inverse(layout) if request.inverse else saved.permutation
        document = _document(request, layout, permutation, progress)
        if request.dry_run:
            size = checkpoint.nbytes
            plan = PlanRecord(size * 2, size, targets.written(), peak_memory(), size / 3e8)
            return structs.replace(document, plan=plan)
        return _carry_out(request, checkpoint, layout, permutation, targets, document, progress)


def _carry_out(
    request: ApplyRequest, checkpoint: Checkpoint, layout: Layout, permutation: Permutation, targets: Targets,
    document: RunDocument, progress: Progress,
) -> RunDocument:  # fmt: skip
    """Check the contents, and write the checkpoint and the document."""
    from rebasin_cli.checkpoints.outputs import Outputs
    from rebasin_cli.pipeline.match import tell_identity
    from rebasin_cli.pipeline.outputs import exact_reader, write_weights
    from rebasin_cli.pipeline.ties import check_ties

    with Outputs(force=request.force) as outputs:
        outputs.claim(*targets.paths().values())
        tell_identity(permutation, progress)
        heads: dict[str, Mapping[str, int]] = {}
        inputs = scan_sources({"checkpoint": (request.checkpoint, checkpoint)}, progress, heads=heads)
        check_ties(layout, checkpoint, heads["checkpoint"], [permutation], again=True)
        write_weights(
            targets["applied"], checkpoint, exact_reader(permutation, layout, checkpoint),
            metadata=output_metadata("apply", layout, request.spec, inputs, inverse=request.inverse),
            outputs=outputs, progress=progress,
        )  # fmt: skip
        document = structs.replace(
            document, inputs={**document.inputs, **inputs}, outputs=targets.written(),
            hashes=targets.hashes(outputs.hashes),
            warnings=tuple(progress.warnings), peak_memory_bytes=peak_memory(), invocations=progress.invocations(),
        )  # fmt: skip
        if path := targets.path("report"):
            outputs.write(path, document_file(document, path))
    return document


def _document(request: ApplyRequest, layout: Layout, permutation: Permutation, progress: Progress) -> RunDocument:
    """What is known before anything is read: the spec, and what the permutation moves."""
    architecture = architecture_record(layout, request.spec, checked=CheckedRecord(why="`apply` runs no network"))
    moved = {
        name: structs.replace(dim, moved=permutation.fraction_moved(name)) for name, dim in architecture.dims.items()
    }
    return RunDocument(
        command="apply",
        inputs={
            "permutation": input_record(request.permutation, sha256_of(request.permutation)),
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
