"""`rebasin apply PERM CKPT -o FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli import options as o
from rebasin_cli.cli.streams import PIPE, output_of, sources, working


def command(
    permutation: Annotated[
        Path, typer.Argument(readable=False, metavar="PERM", help="A permutation file that `rebasin align` wrote.")
    ],
    checkpoint: o.CheckpointPath,
    output: Annotated[
        Path, typer.Option("-o", "--output", readable=False, metavar="FILE", help="The result; - streams it.")
    ],
    inverse: Annotated[bool, typer.Option("--inverse", help="Undo the permutation.")] = False,
    report: o.Report = None,
    force: o.Force = False,
    arch: o.Arch = None,
    sizes: o.Set = None,
    ignore: o.Ignore = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Apply a saved permutation to a checkpoint of the same architecture, bit-exactly."""
    from rebasin_cli.cli.session import Session
    from rebasin_cli.pipeline.apply import ApplyRequest, apply

    session = Session(json=json, quiet=quiet, verbose=verbose, shows=dry_run)
    with working() as cleanup:
        target = output_of(output, json)
        assert target is not None
        (source,) = sources([checkpoint], cleanup)
        request = ApplyRequest(
            permutation, source, target, o.spec_choice(arch, sizes, None, ignore), report,
            inverse=inverse, force=force, dry_run=dry_run,
        )  # fmt: skip
        document = apply(request, session)
    session.finish(document, payload=output != PIPE)
