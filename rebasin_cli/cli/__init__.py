"""The command line: one thin file a command, which parses, calls the pipeline and renders.

Nothing here imports torch, numpy or scipy until a command runs, so that help and completion answer at once.
"""

from rebasin_cli.cli.main import main

__all__ = ["main"]
