"""A permutation planted in an encoder or in encoder and decoder, with noise, is found again.

No family needs more than one seed: the vocabulary names the units of the stream, and everything hangs on that.
"""

from __future__ import annotations

import pytest

from rebasin_cli.proofs.subjects import Make, encoders
from tests.architectures.planting import shortfall

CASES = [
    pytest.param(name, make, id=f"{name}-{at}")
    for name, makes in encoders.SUBJECTS.items()
    for at, make in enumerate(makes)
]


@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_planted_permutation_is_found(name: str, make: Make) -> None:
    assert shortfall(name, make())[0] <= 1e-9
