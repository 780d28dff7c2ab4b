"""Amounts of memory and of time as people write them (`--memory 8GB`, `--time-budget 10m`)."""

from __future__ import annotations

import math
import re

from rebasin_cli.errors import UsageError

_MOST = 10**18  # bytes, more than any machine has; a float of more overflows
_LONGEST = 1e9  # seconds
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str) -> int:
    """`8GB`, `512MB`, `1.5GiB` or plain bytes; powers of 1000, and of 1024 with an `i`.

    Raises:
        UsageError: anything else.
    """
    found = re.fullmatch(r"([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    size = float(found[1]) * (1024 if found[3] else 1000) ** _BYTES[found[2]] if found else math.inf
    if found is None or (found[3] and not found[2]) or size > _MOST:
        raise UsageError(
            f"--memory {text[:24]!r} is no amount of memory up to {_MOST // 10**12} TB",
            remedy="--memory 8GB, 512MB or 1.5GiB",
        )
    return int(size)


def parse_duration(text: str) -> float:
    """`90`, `90s`, `10m` or `1.5h` in seconds.

    Raises:
        UsageError: anything else, or no time at all.
    """
    found = re.fullmatch(r"([0-9]{1,30}(?:\.[0-9]{1,30})?)(s|m|h)?", text.strip())
    seconds = float(found[1]) * _SECONDS[found[2] or ""] if found else 0.0
    if not 0 < seconds <= _LONGEST:
        raise UsageError(
            f"--time-budget {text[:24]!r} is no time from 0 to {_LONGEST / 3600:.0f}h",
            remedy="--time-budget 90s, 10m or 1.5h",
        )
    return seconds
