"""Searches by a loss: which candidate is kept, and after how many that were not better a search ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from rebasin_cli.matching.data.held_out import Found, match_first, search_by_loss
from rebasin_cli.matching.problem import LossProblem, Resources
from rebasin_cli.permutation.values import Permutation
from tests.evaluation.building import layout_of
from tests.small import mlp_state

A, B = mlp_state(0), mlp_state(1)
LAYOUT = layout_of("mlp", A)


class Walk:
    """A search that comes to one given permutation after another."""

    def __init__(self, ways: Sequence[Permutation]) -> None:
        self._ways: Iterator[Permutation] = iter(ways)
        self.batches: list[int] = []

    def step(self, batch: int) -> None:
        """Only take down which batch it is."""
        self.batches.append(batch)

    def candidate(self) -> Permutation:
        """The next one."""
        return next(self._ways)


def searched(walk: Walk, losses: Sequence[float], *, patience: int, epochs: int = 9) -> Found:
    """What is found where candidates that differ have these losses, the first of them that of weight matching."""
    held = iter(losses)

    def loss(state: Mapping[str, Tensor], batch: int) -> Tensor:
        return torch.zeros(())

    problem = LossProblem(LAYOUT, A, B, loss, lambda state: next(held), 3)
    first = match_first(problem, Resources(), 100)
    return search_by_loss(walk, first, problem, Resources(), epochs=epochs, patience=patience)


def ways(count: int) -> list[Permutation]:
    return [Permutation.random(LAYOUT, 7 + at) for at in range(count)]


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_it_ends_after_candidates_in_a_row_that_are_not_better(patience: int) -> None:
    found = searched(Walk(ways(9)), [2.0, 1.0, *[1.0] * 8], patience=patience)
    assert found.stop == "converged"
    assert found.losses == (2.0, *[1.0] * (1 + patience))
    assert found.permutation.equals(ways(1)[0])


def test_epochs_that_change_nothing_do_not_count() -> None:
    one, two = ways(2)
    found = searched(Walk([one, one, one, one, two]), [2.0, 3.0, 1.0], patience=2, epochs=5)
    assert (found.stop, found.losses) == ("max-sweeps", (2.0, 3.0, 3.0, 3.0, 3.0, 1.0))
    assert found.permutation.equals(two)


def test_each_epoch_takes_all_batches_in_its_own_order() -> None:
    walk = Walk(ways(6))
    searched(walk, [1.0] * 7, patience=9, epochs=6)
    epochs = [walk.batches[at : at + 3] for at in range(0, 18, 3)]
    assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1
