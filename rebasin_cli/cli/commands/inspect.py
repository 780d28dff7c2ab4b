"""`rebasin inspect CKPT`."""

from __future__ import annotations

from rebasin_cli.cli import options as o
from rebasin_cli.cli.streams import sources, working


def command(
    checkpoint: o.CheckpointPath,
    arch: o.Arch = None,
    sizes: o.Set = None,
    freeze: o.Freeze = None,
    ignore: o.Ignore = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Show what is in a checkpoint: tensors, architecture, dims and sizes, and what would stay fixed."""
    from rebasin_cli.cli.session import Session
    from rebasin_cli.pipeline.inspect import inspect

    session = Session(json=json, quiet=quiet, verbose=verbose, shows=True)
    with working() as cleanup:
        (source,) = sources([checkpoint], cleanup)
        document = inspect(source, o.spec_choice(arch, sizes, freeze, ignore), session)
    session.finish(document)
