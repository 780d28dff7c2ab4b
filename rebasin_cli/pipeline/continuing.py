"""The former place of what is imported here."""

from rebasin_cli.pipeline.resume import from_document

__all__ = ["from_document"]
