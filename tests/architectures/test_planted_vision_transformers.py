"""A permutation planted in a vision transformer, with noise, is found again: streams, heads and their insides.

No family needs more than one seed: pixels and positions name the units of the stream.
"""

from __future__ import annotations

import pytest

from rebasin_cli.proofs.subjects import Make, vision_transformers
from tests.architectures.planting import shortfall

CASES = [
    pytest.param(name, make, id=f"{name}-{at}")
    for name, makes in vision_transformers.SUBJECTS.items()
    for at, make in enumerate(makes)
]


@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_planted_permutation_is_found(name: str, make: Make) -> None:
    assert shortfall(name, make())[0] <= 1e-9
