"""A permutation planted in a real convolutional network is found again, channels inside their groups included."""

from __future__ import annotations

import pytest

from rebasin_cli.proofs.subjects import SUBJECTS, convnets
from tests.architectures.planting import shortfall

SLOW = {
    ("resnet-bottleneck", 0): "a whole ResNet-50 takes 10 s",
    ("resnet-bottleneck", 1): "32 groups in five blocks take 30 s",
}
"""The others of the family have the same layers."""

CASES = [(name, at) for name, made in convnets.SUBJECTS.items() for at in range(len(made)) if (name, at) not in SLOW]


@pytest.mark.parametrize(("name", "at"), CASES)
def test_planted_permutation_is_recovered(name: str, at: int) -> None:
    missing, _ = shortfall(name, SUBJECTS[name][at](), seeds=20)
    assert missing <= 1e-9
