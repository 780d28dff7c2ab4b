"""A permutation planted in a real recurrent network is found again, with every dim on two sides of one tensor."""

from __future__ import annotations

import pytest

from rebasin_cli.proofs.subjects import SUBJECTS
from tests.architectures.planting import shortfall

CASES = [(name, at) for name in ("lstm", "gru", "rnn") for at in range(len(SUBJECTS[name]))]


@pytest.mark.parametrize(("name", "at"), CASES)
def test_planted_permutation_is_recovered(name: str, at: int) -> None:
    missing, _ = shortfall(name, SUBJECTS[name][at](), seeds=20)
    assert missing <= 1e-9
