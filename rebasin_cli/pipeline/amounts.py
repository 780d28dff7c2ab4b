"""Amounts of memory as people write them (`--memory 8GB`)."""

from __future__ import annotations

import re

from rebasin_cli.errors import UsageError

_BYTES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str) -> int:
    """`8GB`, `512MB`, `1.5GiB` or plain bytes; powers of 1000, and of 1024 with an `i`.

    Raises:
        UsageError: anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if found is None or (found[3] and not found[2]):
        raise UsageError(f"--memory {text}: not an amount of memory", remedy="--memory 8GB, 512MB or 1.5GiB")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _BYTES[found[2]])
