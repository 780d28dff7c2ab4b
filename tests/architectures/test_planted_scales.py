"""Scales planted with permutations and signs, and noise, are found again: one network of each family that has some."""

from __future__ import annotations

import pytest

from rebasin_cli.proofs.subjects import SUBJECTS, Make
from rebasin_cli.spec import shipped_spec
from tests.architectures.planting import distance_left

CASES = [pytest.param(name, makes[0], id=name) for name, makes in SUBJECTS.items() if shipped_spec(name).scales]


def test_there_are_a_dozen_families() -> None:
    assert len(CASES) >= 12


@pytest.mark.parametrize(("name", "make"), CASES)
def test_planted_scales_are_found(name: str, make: Make) -> None:
    assert distance_left(name, make()) <= 1.5
