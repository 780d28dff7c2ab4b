"""`rebasin merge M1 M2 … -o FILE`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli import values as v
from rebasin_cli.cli.groups import AllowNonFinite, DryRun, Force, Report, Talk, grouped
from rebasin_cli.cli.groups.data import PANEL, Examples, NetworkOptions
from rebasin_cli.cli.groups.judging import JudgeOptions, WorthGates, judged
from rebasin_cli.cli.groups.matching import MatchedSpecOptions, MergeMatchOptions, end_of
from rebasin_cli.cli.streams import PIPE, many_sources, output_of, working
from rebasin_cli.cli.values import number


@dataclass(frozen=True)
class MeanOptions:
    """How the mean comes about."""

    algorithm: Annotated[
        v.Algorithm,
        typer.Option(
            help="How they are brought together; by activations without frank-wolfe and hierarchical.",
            rich_help_panel="Run",
        ),
    ] = v.Algorithm.CYCLE_CONSISTENT
    weights: Annotated[
        str | None, typer.Option(metavar="W1,W2,…", help="Of the models; else equal.", rich_help_panel="Run")
    ] = None

    def shares(self) -> tuple[float, ...] | None:
        """The weights as numbers; None if they are equal.

        Raises:
            UsageError: one is none.
        """
        if self.weights is None:
            return None
        parts = self.weights.split(",")
        return tuple(number(v.WEIGHT, part, option="--weights", example="--weights 1,2,1") for part in parts)


@grouped
def command(
    models: Annotated[
        list[Path],
        typer.Argument(
            readable=False, metavar="MODEL", help="Checkpoints of one architecture, or FILE:PREFIX.*; one may be -."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", readable=False, metavar="FILE", help="The mean; - streams it.", rich_help_panel="Output"
        ),
    ],
    *,
    mean: MeanOptions,
    examples: Examples,
    network: NetworkOptions,
    judge: JudgeOptions,
    steps: Annotated[
        int,
        typer.Option(parser=v.STEPS_BETWEEN, metavar="N", help="Points between two models.", rich_help_panel=PANEL),
    ] = 5,
    gates: WorthGates,
    report: Report = None,
    force: Force = False,
    allow_non_finite: AllowNonFinite = False,
    spec: MatchedSpecOptions,
    match: MergeMatchOptions,
    dry_run: DryRun = False,
    talk: Talk,
) -> None:
    """Bring N models into one order of units and write their mean.

    The mean has the form of the first model. Beside it appear the permutation of every model (1 is the first, which
    stays as it is) and a run document.
    """
    from rebasin_cli.pipeline.gates import check_measured
    from rebasin_cli.pipeline.merge import MergeRequest, merge

    session = talk.session(shows=dry_run, feeds=True, report=report, output=output)
    choice = match.choice()
    data = judged(examples, network, judge, match, choice, gates.given())
    with working() as cleanup:
        target = output_of(output)
        assert target is not None
        request = MergeRequest(
            tuple(many_sources(models, cleanup, session)), target, spec.choice(), mean.algorithm.value,
            mean.shares(), data, steps, report, choice, force=force, dry_run=dry_run, allow_non_finite=allow_non_finite,
        )  # fmt: skip
        document = merge(request, session)
    session.finish(document, payload=output != PIPE)
    end_of(document)
    check_measured(document)
    gates.check(document)
