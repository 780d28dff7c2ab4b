"""The former place of what is imported here."""

from rebasin_cli.pipeline.quantities import parse_bytes

__all__ = ["parse_bytes"]
