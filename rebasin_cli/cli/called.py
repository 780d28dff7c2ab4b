"""The words of this call."""

from __future__ import annotations

from contextvars import ContextVar

called: ContextVar[tuple[str, ...]] = ContextVar("called", default=())
"""What stands after `rebasin`."""
