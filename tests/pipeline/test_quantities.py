"""Amounts of memory in words."""

from __future__ import annotations

import pytest

from rebasin_cli.errors import UsageError
from rebasin_cli.pipeline.quantities import parse_bytes


@pytest.mark.parametrize(
    ("text", "amount"),
    [("8GB", 8 * 10**9), ("512mb", 512 * 10**6), ("1.5GiB", 3 << 29), ("0", 0), ("64k", 64000), (" 2 TB ", 2 * 10**12)],
)
def test_amounts(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "much", "-1GB", "8 GX", "4i", "1e9"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        parse_bytes(text)
