"""The former place of `Source`."""

from rebasin_cli.pipeline.inputs import Source

__all__ = ["Source"]
