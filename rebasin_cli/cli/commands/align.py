"""`rebasin align A B`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.groups import grouped
from rebasin_cli.cli.groups.architecture import MatchedSpecOptions
from rebasin_cli.cli.groups.data import FittingExamples, NetworkOptions, check_loss, fitted
from rebasin_cli.cli.groups.matching import MatchOptions, end_of
from rebasin_cli.cli.groups.talk import DryRun, Force, Report, SavePermutation, Talk
from rebasin_cli.cli.streams import PIPE, output_of, sources, working


@grouped
def command(
    a: Annotated[
        Path,
        typer.Argument(readable=False, metavar="A", help="The checkpoint that stays: file, folder, index; - is stdin."),
    ],
    b: Annotated[Path, typer.Argument(readable=False, metavar="B", help="The checkpoint whose units are permuted.")],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", readable=False, metavar="FILE", help="B aligned; - streams it.", rich_help_panel="Output"
        ),
    ] = None,
    save_permutation: SavePermutation = None,
    report: Report = None,
    force: Force = False,
    examples: FittingExamples,
    network: NetworkOptions,
    spec: MatchedSpecOptions,
    match: MatchOptions,
    dry_run: DryRun = False,
    talk: Talk,
) -> None:
    """Permute B's units onto A's.

    Writes B aligned, the permutation and a run document beside B, and prints the document into a pipe. With --network
    or --data the network is run on B before and after, and a difference is an error.
    """
    from rebasin_cli.pipeline.align import AlignRequest, align

    choice = match.choice()
    check_loss(choice, network.loss)
    shown = fitted(examples, network, match)
    session = talk.session(shows=dry_run, feeds=True, report=report, output=output)
    with working() as cleanup:
        target = output_of(output)
        one, two = sources([a, b], cleanup)
        request = AlignRequest(
            one, two, spec.choice(), target, save_permutation, report, choice, shown, force=force, dry_run=dry_run
        )
        document = align(request, session)
    session.finish(document, payload=output != PIPE)
    end_of(document)
