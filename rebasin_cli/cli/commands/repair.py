"""`rebasin repair CKPT --data PATH`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli import numbers as n
from rebasin_cli.cli import options as o
from rebasin_cli.cli.streams import PIPE, output_of, sources, working
from rebasin_cli.errors import UsageError


def command(
    checkpoint: o.CheckpointPath,
    data: o.DataPath = None,
    end: Annotated[
        list[Path] | None,
        typer.Option(readable=False, metavar="CKPT", help="Give both ends (B aligned) to rescale every channel."),
    ] = None,
    at: Annotated[float, typer.Option(parser=n.LAMBDA, metavar="LAM", help="Where between the ends it lies.")] = 0.5,
    split: Annotated[
        o.SplitName, typer.Option(help="Half of a folder of idx files or images.", rich_help_panel=o.DATA)
    ] = o.SplitName.TRAIN,
    limit: o.Limit = 2000,
    loss: o.LossName = None,
    network: o.NetworkName = None,
    network_option: o.NetworkOption = None,
    image_size: o.ImageSize = None,
    normalise: o.Normalise = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", readable=False, metavar="FILE", help="The result; - streams it.")
    ] = None,
    report: o.Report = None,
    allow_non_finite: o.AllowNonFinite = False,
    force: o.Force = False,
    arch: o.Arch = None,
    sizes: o.Set = None,
    ignore: o.Ignore = None,
    device: o.DeviceName = o.Device.AUTO,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Recompute a merged checkpoint's BatchNorm statistics; with both ends, rescale every channel (REPAIR)."""
    from rebasin_cli.cli.session import Session
    from rebasin_cli.pipeline.examples import DataRequest
    from rebasin_cli.pipeline.repair import RepairRequest, repair

    if data is None:
        raise UsageError("repairing measures activations, and without data there are none", remedy="add --data FILE")
    session = Session(json=json, quiet=quiet, verbose=verbose)
    with working() as cleanup:
        target = output_of(output, json)
        source, *ends = sources([checkpoint, *(end or [])], cleanup)
        fitted = DataRequest(
            data, split.value, limit, options=o.pairs("--network-option", network_option), network=network,
            image_size=image_size, moments=o.moments(normalise), loss=loss,
        )  # fmt: skip
        request = RepairRequest(
            source, fitted, tuple(ends), at, o.spec_choice(arch, sizes, None, ignore), target, report,
            device.value, force=force, allow_non_finite=allow_non_finite,
        )  # fmt: skip
        document = repair(request, session)
    session.finish(document, payload=output != PIPE)
