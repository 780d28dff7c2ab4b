"""The command line: one thin file a command, which parses, calls the pipeline and renders.

Nothing here imports torch, numpy or scipy, so that help and completion answer at once; the pipeline does where it works
on tensors.
"""

from rebasin_cli.cli.main import main

__all__ = ["main"]
