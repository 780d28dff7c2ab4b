"""The former place of what is imported here."""

from rebasin_cli.pipeline.progress import Advance
from rebasin_cli.pipeline.progress import Progress as Listener

__all__ = ["Advance", "Listener"]
