"""Permutations and signs planted together, with noise, are found again: one network of each family of decoders."""

from __future__ import annotations

import pytest

from rebasin_cli.proofs.subjects import Make, decoders, encoders
from rebasin_cli.spec import shipped_spec
from tests.architectures.planting import shortfall

CASES = [
    pytest.param(name, makes[0], id=name)
    for name, makes in {**decoders.SUBJECTS, **encoders.SUBJECTS}.items()
    if shipped_spec(name).signs
]


def test_there_are_many_families() -> None:
    assert len(CASES) >= 25


@pytest.mark.parametrize(("name", "make"), CASES)
def test_planted_signs_are_found(name: str, make: Make) -> None:
    assert shortfall(name, make(), signs=True)[0] <= 1e-9
