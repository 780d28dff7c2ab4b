"""`rebasin align A B`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli import options as o
from rebasin_cli.cli.streams import PIPE, output_of, sources, working


def command(
    a: Annotated[
        Path,
        typer.Argument(readable=False, metavar="A", help="The checkpoint that stays: file, folder, index; - is stdin."),
    ],
    b: Annotated[Path, typer.Argument(readable=False, metavar="B", help="The checkpoint whose units are permuted.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", readable=False, metavar="FILE", help="B aligned; - streams it.", rich_help_panel="Output"
        ),
    ] = None,
    save_permutation: o.SavePermutation = None,
    report: o.Report = None,
    force: o.Force = False,
    data: o.DataPath = None,
    split: Annotated[
        o.SplitName, typer.Option(help="Half of a folder of idx files or images.", rich_help_panel=o.DATA)
    ] = o.SplitName.TRAIN,
    limit: o.Limit = None,
    loss: o.LossName = None,
    network: o.NetworkName = None,
    network_option: o.NetworkOption = None,
    sequence_length: o.SequenceLength = None,
    image_size: o.ImageSize = None,
    normalise: o.Normalise = None,
    arch: o.Arch = None,
    sizes: o.Set = None,
    freeze: o.Freeze = None,
    ignore: o.Ignore = None,
    method: o.MethodName = o.Method.WEIGHTS,
    start: o.StartName = o.Start.ANCHORED,
    order: o.OrderName = o.Order.FORWARD,
    seed: o.Seed = 0,
    max_sweeps: o.MaxSweeps = 100,
    restarts: o.Restarts = None,
    quality: o.QualityName = o.Quality.DEFAULT,
    time_budget: o.TimeBudget = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    on_interrupt: o.OnInterruptName = o.OnInterrupt.ABORT,
    similarity: o.LikenessName = o.Likeness.CORRELATION,
    tap: o.Tap = None,
    objective: o.Objective = o.ObjectiveName.DISTANCE,
    epochs: o.Epochs = 20,
    learning_rate: o.LearningRate = None,
    momentum: o.Momentum = 0.9,
    fit_batch: o.FitBatch = 1000,
    device: o.DeviceName = o.Device.AUTO,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Permute B's units onto A's.

    Writes B aligned, the permutation and a run document beside B, and prints the document into a pipe. With --network
    or --data the network is run on B before and after, and a difference is an error.
    """
    from rebasin_cli.cli.session import Session
    from rebasin_cli.pipeline.align import AlignRequest, align
    from rebasin_cli.pipeline.examples import DataRequest

    choice = o.match_choice(
        method, seed, max_sweeps, start, order, device, restarts, quality, time_budget, on_interrupt, memory,
        similarity, epochs, learning_rate, momentum, threads, objective,
    )  # fmt: skip
    shown, taps = None, o.taps(method, tap)
    if loss is not None:
        o.need_loss(choice, loss)
    if data is not None or network is not None:
        shown = DataRequest(
            data, options=o.pairs("--network-option", network_option), fit=data, fit_limit=limit, fit_split=split.value,
            fit_batch=fit_batch, network=network, sequence_length=sequence_length, seed=seed,
            image_size=image_size, moments=o.moments(normalise), taps=taps, loss=loss,
        )  # fmt: skip
    session = Session(json=json, quiet=quiet, verbose=verbose, shows=dry_run)
    with working() as cleanup:
        target = output_of(output, json)
        one, two = sources([a, b], cleanup)
        request = AlignRequest(
            one, two, o.spec_choice(arch, sizes, freeze, ignore), target, save_permutation, report,
            choice=choice, data=shown, force=force, dry_run=dry_run,
        )  # fmt: skip
        document = align(request, session)
    session.finish(document, payload=output != PIPE)
    o.end_of(document)
