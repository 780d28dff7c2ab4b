"""The former place of what is imported here."""

from rebasin_cli.pipeline.progress import Advance, Listener

__all__ = ["Advance", "Listener"]
