"""Trials of a search give every class orders of its own."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from rebasin_cli.derivation.colouring import ColourClass
from rebasin_cli.derivation.trials import drawn
from tests.deadline import deadline


@pytest.mark.parametrize("units", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("classes", [1, 5, 12, 13, 24, 40])
def test_many_classes_of_few_units_have_orders_of_their_own(units: int, classes: int) -> None:
    """Half of the orders of four units keep blocks together and are not drawn: 13 classes take a second round."""
    group = [ColourClass((f"layers.{at}.weight", 0), 0, tuple(range(units))) for at in range(classes)]
    with deadline(60):
        trial = drawn(Random(0), group)
    codes = {tuple(tuple(orders[at]) for orders in trial.rounds) for at in range(classes)}
    assert len(codes) == classes
    assert all(sorted(order) == list(np.arange(units)) for orders in trial.rounds for order in orders)
    assert (tuple(range(units)),) * len(trial.rounds) not in codes
