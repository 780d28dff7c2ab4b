"""`rebasin apply` after all headers were judged: the contents are checked, permuted and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import structs
from torch import Tensor

from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.permutation.gather import exact_reader
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.apply import Run
from rebasin_cli.pipeline.inputs import scan_sources
from rebasin_cli.pipeline.match import tell_identity
from rebasin_cli.pipeline.record import output_metadata, peak_memory
from rebasin_cli.pipeline.targets import write_document, write_weights
from rebasin_cli.pipeline.ties import check_ties
from rebasin_cli.report.document import InputRecord, RunDocument

Inputs = Mapping[str, InputRecord]


def carry_out(run: Run, progress: Progress) -> RunDocument:
    """Check the contents, and write the checkpoint and the document."""
    with Outputs(force=run.request.force) as outputs:
        outputs.claim(*run.targets.paths().values())
        inputs = check(run, progress)
        return write(run, inputs, outputs, progress)


def check(run: Run, progress: Progress) -> Inputs:
    """Read the checkpoint once, and refuse what would not stay the same network."""
    tell_identity(run.permutation, progress)
    heads: dict[str, Mapping[str, int]] = {}
    inputs = scan_sources({"checkpoint": (run.request.checkpoint, run.checkpoint)}, progress, heads=heads)
    if run.permutation.gains:
        from rebasin_cli.permutation.maps import check_gains

        check_gains(run.layout, run.checkpoint.__getitem__, run.checkpoint.address)
    check_ties(run.layout, run.checkpoint, heads["checkpoint"], [run.permutation], again=True)
    return inputs


def applied_reader(run: Run) -> Callable[[str], Tensor]:
    """Key → the bytes of the permuted tensor."""
    return exact_reader(run.permutation, run.layout, run.checkpoint)


def write(run: Run, inputs: Inputs, outputs: Outputs, progress: Progress) -> RunDocument:
    """Write the checkpoint and the document."""
    request = run.request
    write_weights(
        run.targets["applied"], run.checkpoint, applied_reader(run),
        metadata=output_metadata("apply", run.layout, request.spec, inputs, inverse=request.inverse),
        outputs=outputs, progress=progress,
    )  # fmt: skip
    document = describe(run, inputs, progress)
    document = structs.replace(document, hashes=run.targets.hashes(outputs.hashes))
    write_document(document, run.targets, outputs, progress)
    return document


def describe(run: Run, inputs: Inputs, progress: Progress) -> RunDocument:
    """What was done and written."""
    return structs.replace(
        run.document, inputs={**run.document.inputs, **inputs}, outputs=run.targets.written(),
        warnings=tuple(progress.warnings), peak_memory_bytes=peak_memory(),
        invocations=progress.invocations(),
    )  # fmt: skip
