"""`rebasin repair`: a merged checkpoint's statistics, brought to fit its weights."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rebasin_cli.errors import UsageError
from rebasin_cli.evaluation.options import Kind
from rebasin_cli.matching.resources import resolve_device
from rebasin_cli.merging.options import check_lambda
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.data_request import DataRequest
from rebasin_cli.pipeline.inputs import Source, open_source
from rebasin_cli.pipeline.layouts import SpecChoice, bind_one, bind_pair
from rebasin_cli.process import load_torch
from rebasin_cli.report.document import RunDocument


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
        RebasinError: in the order usage, headers, spec, targets, data, contents.
    """
    _check_ends(request)
    device = resolve_device(request.device)
    with ExitStack() as files:
        checkpoint = files.enter_context(open_source(request.checkpoint, progress))
        ends = [files.enter_context(open_source(end, progress)) for end in request.ends]
        layout = bind_one(checkpoint, request.spec)
        named = [bind_pair(checkpoint, end, request.spec).b for end in ends]
        load_torch()
        from rebasin_cli.pipeline.repair_run import carry_out

        return carry_out(request, checkpoint, ends, named, layout, device, progress)


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
