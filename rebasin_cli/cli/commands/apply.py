"""`rebasin apply PERM CKPT -o FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.groups import DryRun, Force, Report, Talk, grouped
from rebasin_cli.cli.groups.data import NamedNetwork
from rebasin_cli.cli.groups.matching import CheckpointPath, UnmatchedOptions
from rebasin_cli.cli.streams import PIPE, output_of, sources, working


@grouped
def command(
    permutation: Annotated[
        Path, typer.Argument(readable=False, metavar="PERM", help="A permutation file that `rebasin align` wrote.")
    ],
    checkpoint: CheckpointPath,
    output: Annotated[
        Path, typer.Option("-o", "--output", readable=False, metavar="FILE", help="The result; - streams it.")
    ],
    *,
    inverse: Annotated[bool, typer.Option("--inverse", help="Undo the permutation.")] = False,
    report: Report = None,
    force: Force = False,
    spec: UnmatchedOptions,
    network: NamedNetwork,
    dry_run: DryRun = False,
    talk: Talk,
) -> None:
    """Apply a saved permutation to a checkpoint, bit-exactly."""
    from rebasin_cli.pipeline.apply import ApplyRequest, apply

    session = talk.session(shows=dry_run, feeds=True, report=report, output=output)
    with working() as cleanup:
        target = output_of(output)
        assert target is not None
        (source,) = sources([checkpoint], cleanup, session)
        request = ApplyRequest(
            permutation,
            source,
            target,
            spec.choice(),
            network.named(),
            report,
            inverse=inverse,
            force=force,
            dry_run=dry_run,
        )
        document = apply(request, session)
    session.finish(document, payload=output != PIPE)
