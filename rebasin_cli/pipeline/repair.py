"""`rebasin repair`: a merged checkpoint's statistics, brought to fit its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from msgspec import structs

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.deferring import load_torch
from rebasin_cli.errors import UsageError
from rebasin_cli.evaluation.options import Kind
from rebasin_cli.merging.options import check_lambda
from rebasin_cli.pipeline.choices import SpecChoice
from rebasin_cli.pipeline.data_request import DataRequest
from rebasin_cli.pipeline.devices import resolve_device
from rebasin_cli.pipeline.inputs import Source, open_source, scan_sources
from rebasin_cli.pipeline.kept_document import write_document
from rebasin_cli.pipeline.layouts import bind_one, bind_pair, tell_layout
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.record import architecture_record, data_records, output_metadata, peak_memory
from rebasin_cli.pipeline.targets import Targets, named_after, named_or_beside, output_base
from rebasin_cli.pipeline.versions import versions
from rebasin_cli.report.document import InputRecord, RunDocument
from rebasin_cli.report.figures import loss_text, percent_text
from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class RepairRequest:
    """What the user asked for.

    Attributes:
        ends: none (BatchNorm statistics are recomputed), or the two networks between which the checkpoint lies,
            the second one aligned (channels are rescaled too).
        lam: where between them.
    """

    checkpoint: Source
    data: DataRequest
    ends: tuple[Source, ...] = ()
    lam: float = 0.5
    spec: SpecChoice = field(default_factory=SpecChoice)
    output: Path | BinaryIO | None = None
    report: Path | None = None
    device: str = "auto"
    force: bool = False
    allow_non_finite: bool = False

    @property
    def kind(self) -> Kind:
        """What will be done."""
        return "repair" if self.ends else "bn"


def repair(request: RepairRequest, progress: Progress) -> RunDocument:
    """Repair a checkpoint; its keys, shapes and dtypes stay as they are.

    Raises:
        RebasinError: in the order usage, headers, spec, data, targets, contents.
    """
    if len(request.ends) not in (0, 2):
        raise UsageError(
            f"--end is given {len(request.ends)} times, and a path has two ends",
            remedy="name both networks that were merged, the second one aligned: --end A --end B.aligned.safetensors",
        )
    check_lambda(request.lam)
    device = resolve_device(request.device)
    with ExitStack() as files:
        checkpoint = files.enter_context(open_source(request.checkpoint, progress))
        ends = [files.enter_context(open_source(end, progress)) for end in request.ends]
        layout = bind_one(checkpoint, request.spec)
        named = [bind_pair(checkpoint, end, request.spec).b for end in ends]
        return _carry_out(request, checkpoint, ends, named, layout, device, progress)


def _carry_out(
    request: RepairRequest, checkpoint: Checkpoint, ends: Sequence[Checkpoint], named: Sequence[Checkpoint],
    layout: Layout, device: str, progress: Progress,
) -> RunDocument:  # fmt: skip
    """Find the network and the examples, and repair; `named`: the ends under the checkpoint's names."""
    load_torch()
    from rebasin_cli.checkpoints.outputs import Outputs
    from rebasin_cli.evaluation.sweep import evaluate
    from rebasin_cli.pipeline.data import batch_size_of, network_and_data
    from rebasin_cli.pipeline.outputs import write_weights
    from rebasin_cli.pipeline.repairer import Repairer

    network, examples, loss = network_and_data(request.data, layout, checkpoint, progress)
    repairer = Repairer(network, examples, device, progress)
    repairer.check(request.kind, "--end A --end B.aligned.safetensors, the two that were merged,")
    targets = _targets(request, checkpoint)
    targets.check((checkpoint, *ends, layout.spec.path, *request.data.inputs()), checkpoint, force=request.force)
    with Outputs(force=request.force) as outputs:
        outputs.claim(*targets.paths().values())
        tell_layout(layout, progress)
        sources = {"checkpoint": (request.checkpoint, checkpoint)}
        sources |= {f"end {i + 1}": (s, c) for i, (s, c) in enumerate(zip(request.ends, ends, strict=True))}
        inputs = scan_sources(sources, progress)
        if ends:
            repairer.measure_ends(*named)
        repaired = repairer.between(checkpoint, (1 - request.lam, request.lam), request.kind)
        size = batch_size_of(network)
        for when, state in (("before", checkpoint), ("after", repaired)):
            scores = evaluate(network, state, examples, loss=loss, batch_size=size, device=device)
            right = f", accuracy {percent_text(scores.accuracy)}" if loss.classes else ""
            progress.remark(f"{when}: loss {loss_text(scores.loss)} ({loss.unit}){right} on the examples fitted on")
        changed = set(repaired.changed)
        metadata = output_metadata("repair", layout, request.spec, inputs, repair=request.kind)
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
