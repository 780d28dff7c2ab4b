"""`rebasin interpolate [A B]`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rebasin_cli.cli import numbers as n
from rebasin_cli.cli import options as o
from rebasin_cli.cli.streams import PIPE, output_of, read_piped_document, sources, working
from rebasin_cli.errors import UsageError

if TYPE_CHECKING:
    from rebasin_cli.merging import Blend

_DATA, _OUTPUT, _PATH = o.DATA, "Output", "Path"
_USAGE = "rebasin interpolate A B, or rebasin align A B | rebasin interpolate"


class Combine(StrEnum):
    """What lies between two tensors."""

    LERP = "lerp"
    SLERP = "slerp"


def command(
    a: Annotated[
        Path | None,
        typer.Argument(readable=False, metavar="A", help="The checkpoint at λ = 0; none: from the pipe."),
    ] = None,
    b: Annotated[Path | None, typer.Argument(readable=False, metavar="B", help="The checkpoint at λ = 1.")] = None,
    steps: Annotated[
        int,
        typer.Option(parser=n.STEPS, metavar="N", help="Points from 0 to 1, ends included.", rich_help_panel=_PATH),
    ] = 25,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="LAM|best", help="The point that -o writes; best: by the loss, the ends aside.",
            rich_help_panel=_PATH,
        ),
    ] = None,
    combine: Annotated[
        Combine, typer.Option(help="Along the straight line, or each tensor's arc.", rich_help_panel=_PATH)
    ] = Combine.LERP,
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=LAM", help="λ of some tensors: 'layers.*=0.3'.", rich_help_panel=_PATH),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align/--no-align", help="Align B first, or take it as it is.", rich_help_panel=_PATH)
    ] = True,
    permutation: Annotated[
        Path | None,
        typer.Option(
            readable=False, metavar="FILE", help="Take this permutation, match nothing.", rich_help_panel=_PATH
        ),
    ] = None,
    data: o.DataPath = None,
    split: Annotated[
        o.SplitName, typer.Option(help="Half of a folder of idx files or images.", rich_help_panel=_DATA)
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
    max_barrier: Annotated[
        float | None,
        typer.Option(
            parser=n.BARRIER, metavar="X", help="Exit with 1 if the last curve's barrier is higher.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", readable=False, metavar="PATH", rich_help_panel=_OUTPUT,
            help="With --at a checkpoint (- streams it), otherwise a folder of them.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(parser=o.file_path, metavar="FILE", help="A PNG of the losses.", rich_help_panel=_OUTPUT),
    ] = None,
    save_permutation: o.SavePermutation = None,
    report: o.Report = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            parser=o.file_path, metavar="FILE", rich_help_panel=_OUTPUT,
            help="Keep the run document while sweeping, and go on from it if it is there.",
        ),
    ] = None,
    force: o.Force = False,
    allow_non_finite: o.AllowNonFinite = False,
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
) -> None:  # fmt: skip
    """Walk the line from A to B, naive and aligned: its loss, its barrier, checkpoints along it.

    In a pipe after `rebasin align`, the alignment that was found there is used.
    """
    if (a is None) != (b is None):
        raise UsageError("a path needs two checkpoints, and one is named", remedy=_USAGE)
    if max_barrier is not None and data is None and eval_command is None:
        raise UsageError("--max-barrier needs losses, and without data there are none", remedy="add --data FILE")
    from rebasin_cli.cli.session import Session
    from rebasin_cli.pipeline.continuing import from_document
    from rebasin_cli.pipeline.curves import check_gate, check_measured
    from rebasin_cli.pipeline.examples import DataRequest
    from rebasin_cli.pipeline.interpolate import InterpolateRequest, better_optimum, interpolate

    kept = (output, plot, save_permutation, report, resume, max_barrier) != (None,) * 6
    session = Session(json=json, quiet=quiet, verbose=verbose, shows=dry_run or not kept)
    choice = o.spec_choice(arch, sizes, freeze, ignore)
    judged, taps = None, o.taps(method, tap)
    matching = o.match_choice(
        method, seed, max_sweeps, start, order, device, restarts, quality, time_budget, on_interrupt, memory,
        similarity, epochs, learning_rate, momentum, threads, objective,
    )  # fmt: skip
    o.need_fitting(fit_data, fit_limit, fits=matching.looks_at_data or bool(o.repairs(repair)))
    fits = fit_data is not None and matching.looks_at_data
    if data is None and eval_command is None:
        o.need_data({"--repair": o.repairs(repair), "--metric": metric, "--resume": resume})
        o.need_data({} if fits else {"--network": network, "--loss": loss})
    if data is not None or eval_command is not None or fits:
        judged = DataRequest(
            data, split.value, limit, batch_size, o.pairs("--network-option", network_option), fit_data, fit_limit,
            fit_batch, o.repairs(repair), network, sequence_length, eval_command, eval_timeout,
            metrics=tuple(metric or ()), seed=seed, image_size=image_size, moments=o.moments(normalise),
            taps=taps, loss=loss,
        )  # fmt: skip
    if resume is not None and report is not None:
        raise UsageError("--resume keeps the run document in its own file", remedy="leave --report away")
    with working() as cleanup:
        target = output_of(output, json)
        before = None
        if a is not None and b is not None:
            one, two = sources([a, b], cleanup)
        else:
            before = read_piped_document(_USAGE)
            if choice != type(choice)():
                raise UsageError(
                    "--arch, --set, --freeze and --ignore were settled when the piped run aligned",
                    remedy="give them to `rebasin align`",
                )
            one, two, choice, found = from_document(before)
            permutation = permutation or found
        request = InterpolateRequest(
            one, two, choice, before, align=align, permutation=permutation, steps=steps, at=_point(at), data=judged,
            best=at == "best", blend=_blend(combine, weight),
            output=target, save_permutation=save_permutation, plot=plot, report=report, resume=resume,
            choice=matching,
            force=force, dry_run=dry_run, allow_non_finite=allow_non_finite,
        )  # fmt: skip
        document = interpolate(request, session)
    session.finish(document, payload=output != PIPE)
    if before is None:
        o.end_of(document)
    check_measured(document)
    if max_barrier is not None and not dry_run:
        check_gate(document, max_barrier, better_optimum(request))


def _point(text: str | None) -> float | None:
    if text is None or text == "best":
        return None
    return o.number(n.LAMBDA, text, option="--at", example="--at 0.5 or --at best")


def _blend(combine: Combine, weight: list[str] | None) -> Blend:
    from rebasin_cli.merging import Blend

    weights = [
        (pattern, o.number(n.LAMBDA, text, option=f"--weight {pattern}", example=f"--weight '{pattern}=0.3'"))
        for pattern, text in o.pairs("--weight", weight).items()
    ]
    return Blend(combine.value, tuple(weights))
