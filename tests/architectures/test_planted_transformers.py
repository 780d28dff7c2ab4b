"""A permutation planted in a transformer, with noise, is found again: streams, heads, their insides and experts.

No family needs more than one seed: the vocabulary, or pixels and positions, name the units of the stream, and all
other dims follow from it.
"""

from __future__ import annotations

import pytest

from rebasin_cli.proofs.subjects import Make, decoders, encoders, vision_transformers
from tests.architectures.planting import shortfall

CASES = [
    pytest.param(name, make, id=f"{name}-{at}")
    for family in (decoders, encoders, vision_transformers)
    for name, makes in family.SUBJECTS.items()
    for at, make in enumerate(makes)
]


@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_planted_permutation_is_found(name: str, make: Make) -> None:
    assert shortfall(name, make())[0] <= 1e-9
