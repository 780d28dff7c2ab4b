"""A permutation planted in a decoder, with noise, is found again: streams, heads, their insides and experts.

No family needs more than one seed: the vocabulary names the units of the stream, and everything hangs on that.
"""

from __future__ import annotations

import pytest

from rebasin_cli.evaluation.subjects import decoders
from tests.architectures.planting import shortfall

FAMILIES = [pytest.param(name, make[0], id=name) for name, make in decoders.SUBJECTS.items()]


@pytest.mark.parametrize(("name", "make"), FAMILIES)
def test_a_planted_permutation_is_found(name, make) -> None:
    assert shortfall(name, make())[0] <= 1e-9
