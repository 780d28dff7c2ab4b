"""What a GPU makes for an assignment: lists, bounds and certificate, here made by torch on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rebasin_cli.errors import ContentError
from rebasin_cli.matching import assignment as module
from rebasin_cli.matching import candidates
from rebasin_cli.matching.assignment import has_fast_solver, solve_assignment
from tests.benchmarks.families import FAMILIES, make_similarity
from tests.matching.test_assignment import check

pytestmark = pytest.mark.skipif(not has_fast_solver(), reason="built without the compiled solver")
WITHOUT_TIES = {"gaussian", "strong-signal", "weak-signal", "very-weak-signal", "low-rank", "spectrum", "trained-like"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [2, 7, 65, 300, 600])
def test_what_a_device_has_read_leads_to_the_same(family: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's part, done by torch on the CPU: lists, bounds and certificate."""
    monkeypatch.setattr(candidates, "AT_ONCE", 5 * n)
    matrix = torch.from_numpy(make_similarity(family, n, seed=n))
    start = np.random.default_rng(n).standard_normal(n)
    for prices in (None, start):
        on_host = solve_assignment(matrix, prices=prices, backend="lazy-jv", scan="host")
        found = solve_assignment(matrix, prices=prices, backend="lazy-jv", scan="device")
        check(matrix.numpy(), found)
        assert found.solver == "lazy-jv"
        if family in WITHOUT_TIES:
            np.testing.assert_array_equal(found.columns, on_host.columns)
            np.testing.assert_allclose(found.prices, on_host.prices, rtol=1e-9, atol=1e-9)  # increments differ a bit


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_device_reads_every_type(dtype: torch.dtype) -> None:
    matrix = torch.from_numpy(make_similarity("gaussian", 40)).to(dtype)
    check(matrix.T.double().numpy(), solve_assignment(matrix.T, scan="device"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_device_sees_what_is_not_finite(bad: float) -> None:
    matrix = torch.from_numpy(make_similarity("gaussian", 40))
    matrix[7, 9] = bad
    with pytest.raises(ContentError, match="not finite"):
        solve_assignment(matrix, scan="device")


def test_lists_that_say_too_little_are_made_again() -> None:
    """The solver does not trust what it is given further than it must."""
    matrix = make_similarity("gaussian", 60)
    room = module._lazy_jv.room(60)
    columns, prices = np.empty(60, np.int64), np.zeros(60)
    nothing = (np.zeros((60, room), np.int64), np.full((60, room), -np.inf), np.full(60, -np.inf), 0.0)
    module._lazy_jv.solve(matrix, prices, columns, nothing)
    np.testing.assert_array_equal(columns, solve_assignment(matrix).columns)
    outside = (np.full((60, room), 60), *nothing[1:])
    with pytest.raises(TypeError, match="lists"):
        module._lazy_jv.solve(matrix, prices, columns, outside)
