"""`rebasin merge M1 M2 … -o FILE`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli import numbers as n
from rebasin_cli.cli import options as o
from rebasin_cli.cli.streams import PIPE, output_of, sources, working


class Algorithm(StrEnum):
    """How N models are brought together."""

    CYCLE_CONSISTENT = "cycle-consistent"
    FRANK_WOLFE = "frank-wolfe"
    MERGE_MANY = "merge-many"
    TO_FIRST = "to-first"
    HIERARCHICAL = "hierarchical"


def command(
    models: Annotated[
        list[Path],
        typer.Argument(
            readable=False, metavar="M1 M2 …", help="Checkpoints of one architecture; one of them may be -."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", readable=False, metavar="FILE", help="The mean; - streams it.", rich_help_panel="Output"
        ),
    ],
    algorithm: Annotated[
        Algorithm,
        typer.Option(
            help="How they are brought together; by activations: the default, merge-many, to-first.",
            rich_help_panel="Run",
        ),
    ] = Algorithm.CYCLE_CONSISTENT,
    weights: Annotated[
        str | None, typer.Option(metavar="W1,W2,…", help="Of the models; else equal.", rich_help_panel="Run")
    ] = None,
    data: o.DataPath = None,
    split: Annotated[
        o.SplitName, typer.Option(help="Half of a folder of idx files or images.", rich_help_panel=o.DATA)
    ] = o.SplitName.TEST,
    limit: o.Limit = None,
    batch_size: o.BatchSize = None,
    loss: o.LossName = None,
    metric: o.MetricName = None,
    network: o.NetworkName = None,
    network_option: o.NetworkOption = None,
    sequence_length: o.SequenceLength = None,
    image_size: o.ImageSize = None,
    normalise: o.Normalise = None,
    eval_command: o.EvalCommand = None,
    eval_timeout: o.EvalTimeout = None,
    repair: o.RepairName = None,
    fit_data: o.FitData = None,
    fit_limit: o.FitLimit = None,
    steps: Annotated[
        int,
        typer.Option(parser=n.STEPS_BETWEEN, metavar="N", help="Points between two models.", rich_help_panel=o.DATA),
    ] = 5,
    report: o.Report = None,
    force: o.Force = False,
    allow_non_finite: o.AllowNonFinite = False,
    arch: o.Arch = None,
    sizes: o.Set = None,
    freeze: o.Freeze = None,
    ignore: o.Ignore = None,
    method: Annotated[
        o.MergeMethod, typer.Option("--method", help="How units are matched.", rich_help_panel="Run")
    ] = o.MergeMethod.WEIGHTS,
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
    fit_batch: o.FitBatch = 1000,
    device: o.DeviceName = o.Device.AUTO,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:  # fmt: skip
    """Bring N models into one order of units and write their mean, like the first model.

    Beside it appear the permutation of every model (1 is the first, which stays as it is) and a run document.
    """
    from rebasin_cli.cli.session import Session
    from rebasin_cli.pipeline.curves import check_measured
    from rebasin_cli.pipeline.examples import DataRequest
    from rebasin_cli.pipeline.merge import MergeRequest, merge

    session = Session(json=json, quiet=quiet, verbose=verbose, shows=dry_run)
    judged, how = None, o.Method(method.value)
    taps = o.taps(how, tap)
    o.need_fitting(fit_data, fit_limit, fits=how == o.Method.ACTIVATIONS or bool(o.repairs(repair)))
    fits = fit_data is not None and how == o.Method.ACTIVATIONS
    if data is None and eval_command is None:
        o.need_data({"--repair": o.repairs(repair), "--loss": loss, "--metric": metric})
        o.need_data({"--network": network if not fits else None})
    if data is not None or eval_command is not None or fits:
        judged = DataRequest(
            data, split.value, limit, batch_size, o.pairs("--network-option", network_option), fit_data, fit_limit,
            fit_batch, o.repairs(repair), network, sequence_length, eval_command, eval_timeout,
            metrics=tuple(metric or ()), seed=seed, image_size=image_size, moments=o.moments(normalise),
            taps=taps, loss=loss,
        )  # fmt: skip
    with working() as cleanup:
        target = output_of(output, json)
        assert target is not None
        request = MergeRequest(
            tuple(sources(models, cleanup)), target, o.spec_choice(arch, sizes, freeze, ignore), algorithm.value,
            _numbers(weights), judged, steps, report,
            choice=o.match_choice(
                how, seed, max_sweeps, start, order, device, restarts, quality, time_budget, on_interrupt, memory,
                similarity, threads=threads,
            ),
            force=force, dry_run=dry_run, allow_non_finite=allow_non_finite,
        )  # fmt: skip
        document = merge(request, session)
    session.finish(document, payload=output != PIPE)
    o.end_of(document)
    check_measured(document)


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    return tuple(o.number(n.WEIGHT, part, option="--weights", example="--weights 1,2,1") for part in text.split(","))
