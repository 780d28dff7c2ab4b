"""Random elements of the whole group are found again in small real networks; `tests.benchmarks.planted` tries more."""

from __future__ import annotations

import pytest

from tests.benchmarks.planted import FAMILIES, recover, small_transformers, whole_layout

WITHOUT = {"LSTM": ("permutations",), "MLP, tanh": ("permutations", "signs")}
"""Of the families whose group has no part that is a matter of real numbers."""


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_random_element_is_found_to_the_noise(name: str) -> None:
    spec, make = FAMILIES[name]
    subject = make()
    found = recover(whole_layout(spec(), subject), subject, seed=7)
    assert found.group == WITHOUT[name] if name in WITHOUT else {"scales", "rotations"} & set(found.group)
    assert found.before > 300 * found.planted
    assert found.after <= found.planted * (1 + 1e-9)
    assert found.function < 1e-5


def test_permutations_and_signs_of_small_transformers_are_found_exactly() -> None:
    assert all(small_transformers(20))
