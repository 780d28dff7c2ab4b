"""`rebasin repair CKPT --data PATH`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli import values as v
from rebasin_cli.cli.groups import AllowNonFinite, Force, Report, Talk, grouped
from rebasin_cli.cli.groups.data import FittingExamples, Limit, NetworkOptions, half
from rebasin_cli.cli.groups.judging import PolishOptions
from rebasin_cli.cli.groups.matching import CheckpointPath, DeviceName, UnmatchedOptions
from rebasin_cli.cli.streams import PIPE, output_of, sources, working
from rebasin_cli.errors import UsageError


@dataclass(frozen=True)
class Examples(FittingExamples):
    """A few thousand are enough for statistics."""

    limit: Limit = 2000


@grouped
def command(
    checkpoint: CheckpointPath,
    *,
    end: Annotated[
        list[Path] | None,
        typer.Option(
            readable=False,
            metavar="CKPT",
            help="Give both ends (B aligned) to rescale every channel; all models to polish.",
        ),
    ] = None,
    at: Annotated[
        float | None, typer.Option(parser=v.LAMBDA, metavar="LAM", help="Where between two ends it lies; else 0.5.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", readable=False, metavar="FILE", help="The result; - streams it.")
    ] = None,
    report: Report = None,
    allow_non_finite: AllowNonFinite = False,
    force: Force = False,
    examples: Examples,
    polish: PolishOptions,
    network: NetworkOptions,
    spec: UnmatchedOptions,
    device: DeviceName = v.Device.AUTO,
    talk: Talk,
) -> None:
    """Repair a merged checkpoint: its statistics (BatchNorm, REPAIR), or its weights.

    BatchNorm statistics are recomputed; with both ends, every channel is rescaled (REPAIR). With --polish and all
    models that were merged, in one order, weights are fitted to their outputs; the data need no targets then.
    """
    from rebasin_cli.pipeline.repair import RepairRequest, repair

    if examples.data is None:
        raise UsageError("repairing measures activations, and without data there are none", remedy="add --data FILE")
    session = talk.session(feeds=True, report=report, output=output)
    with working() as cleanup:
        target = output_of(output)
        source, *ends = sources([checkpoint, *(end or [])], cleanup, session)
        data = replace(network.request(), path=examples.data, split=half(examples.split, "train"), limit=examples.limit)
        data = polish.polished(data)
        request = RepairRequest(
            source, data, tuple(ends), at, spec.choice(), target, report, device.value,
            force=force, allow_non_finite=allow_non_finite,
        )  # fmt: skip
        document = repair(request, session)
    session.finish(document, payload=output != PIPE)
