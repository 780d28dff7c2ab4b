"""The former place of what is imported here."""

from rebasin_cli.pipeline.data import DataRequest

__all__ = ["DataRequest"]
