"""`rebasin repair` after all headers were judged: statistics are repaired or weights fitted, told, and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import structs
from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.errors import UsageError
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.evaluate import AnyNetwork, Judging, evaluate
from rebasin_cli.evaluation.losses import Loss
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.data import batch_size_of, network_and_data
from rebasin_cli.pipeline.inputs import scan_sources
from rebasin_cli.pipeline.layouts import tell_layout
from rebasin_cli.pipeline.polisher import Polisher, prepare_polisher
from rebasin_cli.pipeline.record import architecture_record, data_records, output_metadata, peak_memory, versions
from rebasin_cli.pipeline.repair import RepairRequest
from rebasin_cli.pipeline.statistics import Overlay, Repairer
from rebasin_cli.pipeline.targets import (
    Targets,
    named_after,
    named_or_beside,
    output_base,
    write_document,
    write_weights,
)
from rebasin_cli.report.document import InputRecord, RunDocument
from rebasin_cli.report.figures import loss_text, percent_text
from rebasin_cli.spec import Layout

State = Mapping[str, Tensor]


def carry_out(
    request: RepairRequest, checkpoint: Checkpoint, ends: Sequence[Checkpoint], named: Sequence[Checkpoint],
    layout: Layout, device: str, progress: Progress,
) -> RunDocument:  # fmt: skip
    """Find the network and the examples, and repair; `named`: the ends under the checkpoint's names."""
    targets = _targets(request, checkpoint)
    targets.check((checkpoint, *ends, layout.spec.path, *request.data.inputs()), checkpoint, force=request.force)
    repairing = _prepared(request, layout, checkpoint, device, progress)
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


@dataclass(frozen=True, slots=True)
class _Repairing:
    """What repairs, and on what; loss: None where the examples have no answers."""

    request: RepairRequest
    network: AnyNetwork
    examples: Dataset
    loss: Loss | None
    polisher: Polisher | None
    device: str
    progress: Progress

    def repair(
        self, state: Checkpoint, ends: Sequence[State], weights: Sequence[float]
    ) -> tuple[Overlay, dict[str, str]]:
        """The checkpoint repaired, and what its metadata say of it."""
        if self.polisher is not None:
            repaired = list(self.polisher.polish(state, ends, weights).values())[-1]
            recipe = {"polish": self.polisher.recipe}
        else:
            repairer = Repairer(self.network, self.examples, self.device, self.progress)
            if ends:
                repairer.measure_ends(*ends)
            repaired = repairer.between(state, weights, self.request.kind)
            recipe = {"repair": self.request.kind}
        for when, each in (("before", state), ("after", repaired)):
            self._tell(when, each)
        return repaired, recipe

    def _tell(self, when: str, state: State) -> None:
        if self.loss is None:
            return
        size = batch_size_of(self.network)
        scores = evaluate(self.network, state, self.examples, Judging(self.loss, size, self.device))
        right = f", accuracy {percent_text(scores.accuracy)}" if self.loss.classes else ""
        unit = self.loss.unit
        self.progress.remark(f"{when}: loss {loss_text(scores.loss)} ({unit}){right} on the examples fitted on")


def _prepared(
    request: RepairRequest, layout: Layout, checkpoint: Checkpoint, device: str, progress: Progress
) -> _Repairing:
    """Find the network and the examples, and refuse what cannot be done with them.

    Raises:
        RebasinError: no network, examples that do not fit it, or nothing to repair.
    """
    data = request.data
    fit = replace(data, fit=data.path, fit_limit=data.limit, fit_split=data.split)
    polisher = prepare_polisher(fit, layout, checkpoint, device, progress)
    if polisher is not None:
        return _Repairing(request, polisher.network, polisher.examples, polisher.loss, polisher, device, progress)
    network, examples, loss = network_and_data(data, layout, checkpoint, progress)
    instead = "--end A --end B.aligned.safetensors, the two that were merged,"
    Repairer(network, examples, device, progress).check(request.kind, instead)
    return _Repairing(request, network, examples, loss, None, device, progress)


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
