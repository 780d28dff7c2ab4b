"""What is kept between visits: how much, and that it changes nothing."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.problem import Problem, Resources
from rebasin_cli.matching.resources import (
    MATRICES,
    TENSORS,
    Budget,
    CachedTensors,
    budgets,
    free_memory,
    keep_read,
    keep_wide,
)
from tests.networks import TINY, tiny_layout, tiny_state


class Lazy(Mapping[str, Tensor]):
    """Counts what is read, and gives a copy each time."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state
        self.reads: Counter[str] = Counter()

    def __getitem__(self, key: str) -> Tensor:
        self.reads[key] += 1
        return self.state[key].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


def test_a_budget_gives_what_is_left() -> None:
    budget = Budget(10)
    assert [budget.take(size) for size in (6, 5, 4, 1)] == [True, False, True, False]
    assert budget.left == 0


def test_half_of_the_memory_is_for_tensors() -> None:
    tensors, matrices = budgets(101)
    assert (tensors.left, matrices.left) == (51, 50)
    tensors, matrices = budgets(None)
    assert 0 < tensors.left <= TENSORS
    assert matrices.left == MATRICES


def test_what_fits_is_read_once_and_the_rest_every_time() -> None:
    source = Lazy({"x": torch.zeros(4), "y": torch.ones(4), "z": torch.ones(1)})
    cached = CachedTensors(source, Budget(20))
    for _ in range(3):
        assert {key: tensor.sum().item() for key, tensor in cached.items()} == {"x": 0, "y": 4, "z": 1}
    assert source.reads == {"x": 1, "y": 3, "z": 1}
    assert "x" in cached
    assert "w" not in cached
    assert cached.seconds > 0


def test_what_lies_in_memory_needs_no_cache() -> None:
    state = {"x": torch.zeros(4)}
    assert keep_read(state, Budget(100)) is state
    cached = keep_read(Lazy(state), Budget(100))
    assert keep_read(cached, Budget(100)) is cached


def test_small_networks_are_widened_once() -> None:
    source = Lazy({"x": torch.rand(4), "counts": torch.arange(3)})
    wide = keep_wide(source, Budget(40))
    for _ in range(2):
        assert torch.equal(wide["x"], source.state["x"].double())
        assert wide["counts"].dtype == torch.int64
    assert source.reads == {"x": 1, "counts": 2}  # together they are over the budget
    assert keep_wide(wide, Budget(40)) is wide
    assert pickle.loads(pickle.dumps(wide))["x"].dtype == torch.float64


@pytest.mark.parametrize("memory", [None, 0, 2000])
@pytest.mark.parametrize("name", list(TINY))
def test_memory_changes_no_permutation(name: str, memory: int | None, tmp_path: Path) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    plain = match_by_weights(Problem(layout, a, b))
    one, two = Lazy(a), Lazy(b)
    lazy = match_by_weights(Problem(layout, one, two), Resources(memory=memory))
    assert lazy.permutation.equals(plain.permutation)
    assert lazy.objective == pytest.approx(plain.objective, rel=1e-12)
    if memory is None:
        assert max(one.reads.values()) == 1
        assert max(two.reads.values()) == 1
    if memory == 0:
        assert max(two.reads.values()) > 1


def test_where_the_system_does_not_say_memory_is_taken_for_1_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("os.sysconf", lambda name: 1 << 12 if name == "SC_PAGE_SIZE" else 1 << 10)
    assert free_memory() == 1 << 22
    monkeypatch.setattr("os.sysconf", refuse)
    assert free_memory() == 1 << 30
