"""Derived specs are the shipped ones, on some quick networks; `python -m tests.derived` tries all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_cli.proofs.subjects import SUBJECTS
from tests.derived import TABLE, measured, table

SAMPLE = (("mlp", 5), ("lstm", 0), ("gpt2", 0), ("phi", 0), ("vit", 0), ("t5-encoder", 0))


@pytest.mark.parametrize(("spec", "at"), SAMPLE)
def test_the_derived_spec_has_the_group_of_the_shipped_one(spec: str, at: int) -> None:
    row, text = measured(spec, SUBJECTS[spec][at](), 600.0)
    assert row["holds"], row["proof"]
    assert len(row["equal"]) == row["shipped"], text
    assert not row["more"], text


def test_rows_that_were_not_measured_anew_stay(tmp_path: Path) -> None:
    page = TABLE.read_text()
    assert table(tmp_path, page) == page
    assert table(tmp_path, "").count("| `") == 0
