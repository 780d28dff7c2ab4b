"""`rebasin plane [A B]`."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli import values as v
from rebasin_cli.cli.ends import both_or_none, ends_of
from rebasin_cli.cli.groups import DryRun, Force, Plot, Report, Resume, SavePermutation, Talk, grouped, one_document
from rebasin_cli.cli.groups.data import Examples, NetworkOptions
from rebasin_cli.cli.groups.judging import JudgeOptions, judged
from rebasin_cli.cli.groups.matching import MatchedSpecOptions, MatchOptions, end_of
from rebasin_cli.cli.streams import working
from rebasin_cli.errors import UsageError

_PLANE = "Plane"
_USAGE = "rebasin plane A B --data FILE, or rebasin align A B | rebasin plane --data FILE"


@dataclass(frozen=True)
class PlaneOptions:
    """The points of the plane, and which B lies in it."""

    steps: Annotated[
        int, typer.Option(parser=v.STEPS_OF_PLANE, metavar="N", help="Points on each axis.", rich_help_panel=_PLANE)
    ] = 21
    margin: Annotated[
        float,
        typer.Option(
            parser=v.MARGIN, metavar="X", help="Room around the triangle, of its longer side.", rich_help_panel=_PLANE
        ),
    ] = 0.2
    permutation: Annotated[
        Path | None,
        typer.Option(
            readable=False, metavar="FILE", help="Take this permutation, match nothing.", rich_help_panel=_PLANE
        ),
    ] = None


@dataclass(frozen=True)
class Results:
    """What is kept of the plane."""

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
        Path | None, typer.Argument(readable=False, metavar="A", help="The checkpoint that stays; none: from the pipe.")
    ] = None,
    b: Annotated[
        Path | None, typer.Argument(readable=False, metavar="B", help="Taken as it is, and aligned.")
    ] = None,
    *,
    grid: PlaneOptions,
    examples: Examples,
    network: NetworkOptions,
    judge: JudgeOptions,
    results: Results,
    force: Force = False,
    spec: MatchedSpecOptions,
    match: MatchOptions,
    dry_run: DryRun = False,
    talk: Talk,
) -> None:  # fmt: skip
    """Measure the loss in the plane through A, B as it is, and B aligned: a contour plot of both basins.

    In a pipe after `rebasin align`, the alignment that was found there is used.
    """
    both_or_none("plane", a, b, _USAGE)
    if examples.data is None and judge.program() is None:
        raise UsageError("a plane is one of losses, and without data there are none", remedy="add --data FILE")
    one_document(results.report, results.resume)
    if judge.repairs() not in ((), ("bn",)):
        raise UsageError(
            "--repair repair sets what lies between two networks, and a plane goes beyond them",
            remedy="--repair bn recomputes BatchNorm's statistics at every point",
        )
    from rebasin_cli.pipeline.gates import check_measured
    from rebasin_cli.pipeline.interpolate import interpolate
    from rebasin_cli.pipeline.interpolate_request import InterpolateRequest, PlaneGrid

    session = talk.session(shows=dry_run or not results.any(), feeds=True, report=results.report)
    spec_choice, choice = spec.choice(), match.choice()
    data = judged(examples, network, judge, match, choice, {})
    with working() as cleanup:
        ends = ends_of(a, b, spec_choice, cleanup, session, _USAGE)
        before, permutation = ends.document, grid.permutation or ends.permutation
        request = InterpolateRequest(
            ends.a, ends.b, ends.spec, before, permutation=permutation, data=data, plot=results.plot,
            save_permutation=results.save_permutation, report=results.report, resume=results.resume, choice=choice,
            force=force, dry_run=dry_run, plane=PlaneGrid(grid.steps, grid.margin),
        )  # fmt: skip
        document = interpolate(request, session)
    session.finish(document)
    if before is None:
        end_of(document)
    check_measured(document)
