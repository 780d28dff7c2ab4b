"""`rebasin repair`: a merged checkpoint's statistics, brought to fit its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from msgspec import structs

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.evaluation.options import Kind
from rebasin_cli.merging.options import check_lambda
from rebasin_cli.pipeline.data_request import DataRequest
from rebasin_cli.pipeline.devices import resolve_device
from rebasin_cli.pipeline.inputs import Source, open_source, scan_sources
from rebasin_cli.pipeline.layouts import SpecChoice, bind_one, bind_pair, tell_layout
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.record import architecture_record, data_records, output_metadata, peak_memory, versions
from rebasin_cli.pipeline.targets import Targets, named_after, named_or_beside, output_base, write_document
from rebasin_cli.process import load_torch
from rebasin_cli.report.document import InputRecord, RunDocument
from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class RepairRequest:
    """What the user asked for.

    Attributes:
        ends: none (BatchNorm statistics are recomputed), or the two networks between which the checkpoint lies,
            the second one aligned (channels are rescaled too); to polish two or more, in one order.
        lam: where between two; None for their mean.
    """

    checkpoint: Source
    data: DataRequest
    ends: tuple[Source, ...] = ()
    lam: float | None = None
    spec: SpecChoice = field(default_factory=SpecChoice)
    output: Path | BinaryIO | None = None
    report: Path | None = None
    device: str = "auto"
    force: bool = False
    allow_non_finite: bool = False

    @property
    def kind(self) -> Kind:
        """What will be done, if it is not polished."""
        return "repair" if self.ends else "bn"

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the ends."""
        if self.lam is None:
            return (1 / max(1, len(self.ends)),) * len(self.ends)
        return (1 - self.lam, self.lam)


def repair(request: RepairRequest, progress: Progress) -> RunDocument:
    """Repair a checkpoint; its keys, shapes and dtypes stay as they are.

    Raises:
        RebasinError: in the order usage, headers, spec, data, targets, contents.
    """
    _check_ends(request)
    device = resolve_device(request.device)
    with ExitStack() as files:
        checkpoint = files.enter_context(open_source(request.checkpoint, progress))
        ends = [files.enter_context(open_source(end, progress)) for end in request.ends]
        layout = bind_one(checkpoint, request.spec)
        named = [bind_pair(checkpoint, end, request.spec).b for end in ends]
        return _carry_out(request, checkpoint, ends, named, layout, device, progress)


def _check_ends(request: RepairRequest) -> None:
    """Refuse a number of ends that nothing can be done with, and a λ that is none.

    Raises:
        UsageError: naming how many there are.
    """
    count = len(request.ends)
    if request.data.polish is not None and count < 2:
        raise UsageError(
            f"--polish fits a merge to the models it was made of, and --end is given {count} times",
            remedy="name them all, in one order: --end A --end B.aligned.safetensors",
        )
    if request.data.polish is None and count not in (0, 2):
        raise UsageError(
            f"--end is given {count} times, and a path has two ends",
            remedy="name both networks that were merged, the second one aligned: --end A --end B.aligned.safetensors",
        )
    if request.lam is not None:
        check_lambda(request.lam)
        if count > 2:
            raise UsageError(f"--at lies between two ends, and there are {count}", remedy="leave it away")


def _carry_out(
    request: RepairRequest, checkpoint: Checkpoint, ends: Sequence[Checkpoint], named: Sequence[Checkpoint],
    layout: Layout, device: str, progress: Progress,
) -> RunDocument:  # fmt: skip
    """Find the network and the examples, and repair; `named`: the ends under the checkpoint's names."""
    load_torch()
    from rebasin_cli.checkpoints.outputs import Outputs
    from rebasin_cli.pipeline.repairing import prepare_repairing
    from rebasin_cli.pipeline.write_weights import write_weights

    repairing = prepare_repairing(request, layout, checkpoint, device, progress)
    targets = _targets(request, checkpoint)
    targets.check((checkpoint, *ends, layout.spec.path, *request.data.inputs()), checkpoint, force=request.force)
    with Outputs(force=request.force) as outputs:
        outputs.claim(*targets.paths().values())
        tell_layout(layout, progress)
        sources = {"checkpoint": (request.checkpoint, checkpoint)}
        sources |= {f"end {i + 1}": (s, c) for i, (s, c) in enumerate(zip(request.ends, ends, strict=True))}
        inputs = scan_sources(sources, progress)
        repaired, recipe = repairing.repair(checkpoint, named, request.weights)
        changed = set(repaired.changed)
        metadata = output_metadata("repair", layout, request.spec, inputs, **recipe)
        write_weights(
            targets["repaired"], checkpoint, lambda key: repaired[key] if key in changed else checkpoint.read_raw(key),
            metadata=metadata, outputs=outputs, progress=progress, finite=not request.allow_non_finite,
        )  # fmt: skip
        document = _document(request, layout, inputs, targets, device, progress)
        document = structs.replace(document, hashes=targets.hashes(outputs.hashes))
        write_document(document, targets, outputs, progress)
    return document


def _targets(request: RepairRequest, checkpoint: Checkpoint) -> Targets:
    """Names for the checkpoint and the document, from `-o` or from the checkpoint's own name."""
    output = request.output
    if output is None:
        if str(request.checkpoint.shown) == "-":
            raise UsageError("the checkpoint comes from a pipe, so that the output has no name", remedy="name it: -o")
        output = named_after(checkpoint, request.checkpoint.path, "repaired")
    report = named_or_beside(request.report, output_base(output), ".rebasin.json")
    return Targets.of("repaired", {"repaired": output, "report": report})


def _document(
    request: RepairRequest, layout: Layout, scanned: Mapping[str, InputRecord], targets: Targets, device: str,
    progress: Progress,
) -> RunDocument:  # fmt: skip
    inputs = {**scanned, **data_records(request.data)}
    return RunDocument(
        command="repair",
        inputs=inputs,
        architecture=architecture_record(layout, request.spec),
        outputs=targets.written(),
        warnings=tuple(progress.warnings),
        versions=versions(),
        invocations=progress.invocations(),
        device=device,
        peak_memory_bytes=peak_memory(),
    )
