"""`rebasin inspect CKPT`."""

from __future__ import annotations

from rebasin_cli.cli.groups import Talk, grouped
from rebasin_cli.cli.groups.data import NamedNetwork
from rebasin_cli.cli.groups.matching import CheckpointPath, SpecOptions
from rebasin_cli.cli.streams import sources, working


@grouped
def command(checkpoint: CheckpointPath, spec: SpecOptions, network: NamedNetwork, talk: Talk) -> None:
    """Show a checkpoint: tensors, architecture, dims and sizes.

    Also what would stay in place, and why. Only headers are read.
    """
    from rebasin_cli.pipeline.inspect import inspect

    session = talk.session(shows=True)
    with working() as cleanup:
        (source,) = sources([checkpoint], cleanup, session)
        document = inspect(source, spec.choice(), session, network.named())
    session.finish(document)
