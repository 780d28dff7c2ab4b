"""`rebasin interpolate [A B]`."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rebasin_cli.cli import values as v
from rebasin_cli.cli.ends import both_or_none, ends_of
from rebasin_cli.cli.groups import (
    AllowNonFinite,
    DryRun,
    Force,
    Plot,
    Report,
    Resume,
    SavePermutation,
    Talk,
    grouped,
    one_document,
)
from rebasin_cli.cli.groups.data import PANEL, Examples, NetworkOptions
from rebasin_cli.cli.groups.judging import LineJudgeOptions, WorthGates, judged
from rebasin_cli.cli.groups.matching import MatchedSpecOptions, MatchOptions, end_of
from rebasin_cli.cli.streams import PIPE, output_of, working
from rebasin_cli.cli.values import number, pairs
from rebasin_cli.errors import UsageError

if TYPE_CHECKING:
    from rebasin_cli.merging.options import Blend

_OUTPUT, _PATH = "Output", "Path"
_USAGE = "rebasin interpolate A B, or rebasin align A B | rebasin interpolate"


@dataclass(frozen=True)
class PathOptions:
    """The path from A to B, and which of its points are written."""

    steps: Annotated[
        int,
        typer.Option(parser=v.STEPS, metavar="N", help="Points from 0 to 1, ends included.", rich_help_panel=_PATH),
    ] = 25
    at: Annotated[
        str | None,
        typer.Option(
            metavar="LAM|best", help="The point that -o writes; best: by the loss, the ends aside.",
            rich_help_panel=_PATH,
        ),
    ] = None  # fmt: skip
    combine: Annotated[v.Combine, typer.Option(help="What lies between two tensors.", rich_help_panel=_PATH)] = (
        v.Combine.LERP
    )
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=LAM", help="λ of some tensors: 'layers.*=0.3'.", rich_help_panel=_PATH),
    ] = None
    unaligned: Annotated[
        bool, typer.Option("--no-align", help="Take B as it is, and match nothing.", rich_help_panel=_PATH)
    ] = False
    permutation: Annotated[
        Path | None,
        typer.Option(
            readable=False, metavar="FILE", help="Take this permutation, match nothing.", rich_help_panel=_PATH
        ),
    ] = None


@dataclass(frozen=True)
class Results:
    """What is kept of the path."""

    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", readable=False, metavar="PATH", rich_help_panel=_OUTPUT,
            help="With --at a checkpoint (- streams it), otherwise a folder of them.",
        ),
    ] = None  # fmt: skip
    plot: Plot = None
    save_permutation: SavePermutation = None
    report: Report = None
    resume: Resume = None

    def any(self) -> bool:
        """Whether there are some."""
        return any(value is not None for value in astuple(self))


@grouped
def command(
    a: Annotated[
        Path | None,
        typer.Argument(readable=False, metavar="A", help="The checkpoint at λ = 0; none: from the pipe."),
    ] = None,
    b: Annotated[Path | None, typer.Argument(readable=False, metavar="B", help="The checkpoint at λ = 1.")] = None,
    *,
    path: PathOptions,
    examples: Examples,
    network: NetworkOptions,
    judge: LineJudgeOptions,
    max_barrier: Annotated[
        float | None,
        typer.Option(
            parser=v.BARRIER, metavar="X", help="Exit with 1 if the last curve's barrier is higher.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    gates: WorthGates,
    results: Results,
    force: Force = False,
    allow_non_finite: AllowNonFinite = False,
    spec: MatchedSpecOptions,
    match: MatchOptions,
    dry_run: DryRun = False,
    talk: Talk,
) -> None:  # fmt: skip
    """Walk the path from A to B: loss, barrier, checkpoints on it.

    The path is walked with B as it is (naive) and with B aligned. In a pipe after `rebasin align`, the alignment that
    was found there is used.
    """
    both_or_none("path", a, b, _USAGE)
    if max_barrier is not None and examples.data is None and judge.program() is None:
        raise UsageError("--max-barrier needs losses, and without data there are none", remedy="add --data FILE")
    if any(gates.given().values()) and path.at is None:
        raise UsageError(
            f"{' and '.join(name for name, value in gates.given().items() if value is not None)}: the merge is one "
            "point of the path, and none is named",
            remedy="add --at LAM -o FILE",
        )
    if judge.polish is not None and path.at is None:
        raise UsageError("--polish fits the one point that is written", remedy="name it: --at 0.5 -o FILE.safetensors")
    one_document(results.report, results.resume)
    from rebasin_cli.pipeline.gates import check_gate, check_measured
    from rebasin_cli.pipeline.interpolate import interpolate
    from rebasin_cli.pipeline.interpolate_request import InterpolateRequest, better_optimum

    session = talk.session(
        shows=dry_run or not (results.any() or max_barrier is not None),
        feeds=True,
        report=results.report,
        output=results.output,
    )
    spec_choice, choice = spec.choice(), match.choice()
    data = judged(examples, network, judge, match, choice, {"--resume": results.resume, **gates.given()})
    with working() as cleanup:
        target = output_of(results.output)
        ends = ends_of(a, b, spec_choice, cleanup, session, _USAGE)
        before, permutation = ends.document, path.permutation or ends.permutation
        request = InterpolateRequest(
            ends.a, ends.b, ends.spec, before, not path.unaligned, permutation, path.steps, _point(path.at),
            best=path.at == "best", blend=_blend(path.combine, path.weight), data=data, output=target,
            save_permutation=results.save_permutation, plot=results.plot, report=results.report,
            resume=results.resume, choice=choice, force=force, dry_run=dry_run, allow_non_finite=allow_non_finite,
        )  # fmt: skip
        document = interpolate(request, session)
    session.finish(document, payload=results.output != PIPE)
    if before is None:
        end_of(document)
    check_measured(document)
    if max_barrier is not None and not dry_run:
        check_gate(document, max_barrier, better_optimum(request))
    gates.check(document)


def _point(text: str | None) -> float | None:
    if text is None or text == "best":
        return None
    return number(v.LAMBDA, text, option="--at", example="--at 0.5 or --at best")


def _blend(combine: v.Combine, weight: list[str] | None) -> Blend:
    from rebasin_cli.merging.options import Blend

    weights = [
        (pattern, number(v.LAMBDA, text, option=f"--weight {pattern}", example=f"--weight '{pattern}=0.3'"))
        for pattern, text in pairs("--weight", weight).items()
    ]
    return Blend(combine.value, tuple(weights))
