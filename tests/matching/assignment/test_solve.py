"""The assignment against brute force and scipy, on matrices from the sane to the degenerate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from rebasin_cli.errors import ContentError
from rebasin_cli.matching.assignment import solve as module
from rebasin_cli.matching.assignment.solve import Assignment, Backend, solve_assignment, solve_assignments
from rebasin_cli.matching.resources import has_fast_solver
from tests.benchmarks.families import FAMILIES, make_similarity

needs_fast_solver = pytest.mark.skipif(not has_fast_solver(), reason="built without the compiled solver")
BACKENDS = [pytest.param("lazy-jv", marks=needs_fast_solver), "scipy"]
SIZES = (2, 3, 7, 33, 64, 65, 130)


def value_of(matrix: NDArray, columns: NDArray) -> float:
    return float(np.asarray(matrix, np.float64)[np.arange(len(matrix)), columns].sum())


def scale_of(matrix: NDArray) -> float:
    return len(matrix) * float(np.abs(np.asarray(matrix, np.float64)).max(initial=0.0)) + 1e-300


def check(matrix: NDArray, found: Assignment) -> None:
    """A permutation, as good as scipy's, with a bound that proves it."""
    wide = np.asarray(matrix, np.float64)
    n = len(wide)
    assert found.columns.dtype == np.int64
    assert sorted(found.columns) == list(range(n))
    assert found.value == pytest.approx(value_of(wide, found.columns), rel=1e-12, abs=1e-300)
    best = value_of(wide, linear_sum_assignment(wide, maximize=True)[1])
    assert found.value >= best - 1e-13 * scale_of(wide)
    if found.gap is None:
        assert found.solver.startswith("scipy")
        return
    assert found.prices is not None
    upper = (wide - found.prices).max(axis=1, initial=-np.inf).sum() + found.prices.sum() if n else 0.0
    rounding = 1e-13 * (scale_of(wide) + n * np.abs(found.prices).max(initial=0.0))
    assert found.gap >= 0
    assert upper - found.value == pytest.approx(found.gap, abs=rounding)
    assert found.gap <= rounding
    # Feasible duals, row by row: u_i + p_j >= a_ij, with equality on the pairs.
    utility = wide[np.arange(n), found.columns] - found.prices[found.columns]
    assert (utility[:, None] + found.prices - wide >= -rounding).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", SIZES)
def test_every_family_is_solved_exactly(family: str, n: int, backend: Backend) -> None:
    matrix = make_similarity(family, n, seed=n)
    found = solve_assignment(matrix, backend=backend)
    check(matrix, found)
    assert found.solver == backend


@needs_fast_solver
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_solved_exactly_beyond_one_list_block(family: str) -> None:
    matrix = make_similarity(family, 400, seed=5)
    found = solve_assignment(matrix)
    check(matrix, found)
    assert found.solver == "lazy-jv"


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_small_matrices_agree_with_brute_force(backend: Backend, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 7), label="n")
    kinds = [st.integers(-3, 3), st.integers(0, 1), st.floats(-(2.0**100), 2.0**100, width=32)]
    entries = kinds[data.draw(st.integers(0, 2), label="kind of entries")]
    matrix = data.draw(hnp.arrays(np.float32, (n, n), elements=entries), label="matrix")
    best = max(value_of(matrix, np.array(p, np.int64)) for p in itertools.permutations(range(n)))
    found = solve_assignment(matrix, backend=backend)
    assert found.value == pytest.approx(best, rel=1e-12, abs=1e-13 * scale_of(matrix))
    check(matrix, found)


@needs_fast_solver
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_matrices_with_dead_and_copied_units_agree_with_scipy(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 90), label="n")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), label="seed"))
    levels = data.draw(st.sampled_from([2, 5, 1000, 0]), label="levels")
    matrix = rng.integers(0, levels, (n, n)) * 1.0 if levels else rng.standard_normal((n, n))
    share = st.floats(0, 1)
    for axis in (0, 1):
        view = matrix if axis == 0 else matrix.T
        copied = rng.random(n) < data.draw(share, label="copied")
        view[copied] = view[rng.integers(n)]
        constant = rng.random(n) < data.draw(share, label="constant")
        view[constant] = rng.integers(-2, 3, (n, 1))[constant]
    matrix = matrix.astype(data.draw(st.sampled_from([np.float32, np.float64]), label="dtype"))
    start = data.draw(st.sampled_from([None, 1.0, 1e3]), label="start")
    found = solve_assignment(matrix, prices=None if start is None else start * rng.standard_normal(n))
    check(matrix, found)
    assert found.solver == "lazy-jv"


@needs_fast_solver
def test_rounding_of_large_starting_prices_is_no_failure() -> None:
    """Small matrices whose prices end far below where they started: the answer is still proved."""
    for seed in range(3000):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 6))
        matrix = rng.integers(0, (2, 5, 1000)[seed % 3], (n, n)).astype(np.float32)
        matrix[:, rng.random(n) < 0.4] = rng.integers(-2, 3)
        found = solve_assignment(matrix, prices=1e3 * rng.standard_normal(n))
        assert found.solver == "lazy-jv", seed


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_unit_and_one_unit(backend: Backend) -> None:
    empty = solve_assignment(np.zeros((0, 0), np.float32), backend=backend)
    assert (empty.columns.shape, empty.value, empty.gap) == ((0,), 0.0, 0.0)
    one = solve_assignment(np.array([[-2.5]], np.float32), backend=backend)
    assert (one.columns.tolist(), one.value, one.gap) == ([0], -2.5, 0.0)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e30, 1e38])
def test_scale_changes_nothing(scale: float) -> None:
    matrix = make_similarity("gaussian", 90, seed=1) / 8
    found = solve_assignment((matrix * np.float32(scale)).astype(np.float32))
    check(matrix * np.float32(scale), found)
    assert value_of(matrix, found.columns) == pytest.approx(solve_assignment(matrix).value, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-300, 1e100, 1e300])
def test_scale_changes_nothing_in_float64(scale: float) -> None:
    matrix = np.random.default_rng(2).standard_normal((70, 70)) / 8
    found = solve_assignment(matrix * scale)
    assert value_of(matrix, found.columns) == pytest.approx(solve_assignment(matrix).value, rel=1e-12)


LAYOUTS: dict[str, Callable[[NDArray], NDArray]] = {
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "every other row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every other column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "a corner": lambda a: np.pad(a, 5)[5:-5, 5:-5],
    "rows backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "columns backwards": lambda a: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "a tensor": torch.from_numpy,
    "a transposed tensor": lambda a: torch.from_numpy(np.ascontiguousarray(a.T)).T,
    "a parameter": lambda a: torch.nn.Parameter(torch.from_numpy(a.copy())),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_in_memory_changes_nothing(layout: str, dtype: type, backend: Backend) -> None:
    matrix = make_similarity("integers", 70, seed=3).astype(dtype)
    before = matrix.copy()
    plain = solve_assignment(matrix, backend=backend)
    found = solve_assignment(LAYOUTS[layout](matrix), backend=backend)
    np.testing.assert_array_equal(found.columns, plain.columns)
    np.testing.assert_array_equal(matrix, before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_is_taken_as_it_is(dtype: torch.dtype, backend: Backend) -> None:
    tensor = torch.from_numpy(make_similarity("gaussian", 100, seed=4)).to(dtype)
    found = solve_assignment(tensor, backend=backend)
    check(tensor.double().numpy(), found)
    if dtype is torch.float16:
        np.testing.assert_array_equal(solve_assignment(tensor.numpy(), backend=backend).columns, found.columns)


def test_float64_is_not_rounded_to_float32() -> None:
    matrix = np.ones((40, 40)) + 1e-12 * np.random.default_rng(0).standard_normal((40, 40))
    check(matrix, solve_assignment(matrix))
    assert solve_assignment(matrix).value > solve_assignment(matrix.astype(np.float32)).value


@needs_fast_solver
def test_prices_of_an_earlier_solve_are_a_start() -> None:
    matrix = make_similarity("low-rank", 200, seed=6)
    first = solve_assignment(matrix)
    assert first.prices is not None
    kept = first.prices.copy()
    again = solve_assignment(matrix, prices=first.prices)
    check(matrix, again)
    np.testing.assert_array_equal(again.columns, first.columns)
    np.testing.assert_array_equal(first.prices, kept)
    moved = matrix + np.float32(0.01) * make_similarity("gaussian", 200, seed=7)
    check(moved, solve_assignment(moved, prices=first.prices))
    assert solve_assignment(moved, prices=first.prices).value == pytest.approx(solve_assignment(moved).value)


@needs_fast_solver
@pytest.mark.parametrize("family", ["integers", "zeros", "trained-like", "dead-both", "duplicate-rows"])
def test_calls_repeat_each_other_also_from_several_threads(family: str) -> None:
    matrices = [make_similarity(family, n, seed=n) for n in (50, 180, 300)] * 4
    alone = [solve_assignment(m) for m in matrices]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(solve_assignment, matrices))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.columns, other.columns)
        np.testing.assert_array_equal(one.prices, other.prices)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (3, 99), (99, 99)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_entry_that_is_not_finite_is_named(
    bad: float, place: tuple[int, int], dtype: type, backend: Backend
) -> None:
    matrix = make_similarity("gaussian", 100, seed=8).astype(dtype)
    matrix[place] = bad
    with pytest.raises(ContentError) as caught:
        solve_assignment(matrix, backend=backend)
    assert "1 of 10000 entries" in caught.value.what
    assert f"row {place[0]}, column {place[1]}" in caught.value.where


@pytest.mark.parametrize("axis", [0, 1])
def test_a_whole_row_or_column_of_infinities_is_refused(axis: int) -> None:
    matrix = np.zeros((8, 8), np.float32)
    matrix[(slice(None), 2) if axis else 2] = np.inf
    with pytest.raises(ContentError, match="8 of 64 entries"):
        solve_assignment(matrix)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ContentError, match="square"):
        solve_assignment(np.zeros(shape, np.float32))


@pytest.mark.parametrize("prices", [np.zeros(3), np.full(4, np.nan)])
def test_unusable_prices_are_refused(prices: NDArray) -> None:
    with pytest.raises(ValueError, match="4 finite numbers"):
        solve_assignment(np.zeros((4, 4), np.float32), prices=prices)


def test_without_the_compiled_solver_scipy_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = make_similarity("gaussian", 60, seed=9)
    usual = solve_assignment(matrix)
    monkeypatch.setattr(module, "_lazy_jv", None)
    found = solve_assignment(matrix)
    assert (found.solver, found.gap, found.prices) == ("scipy", None, None)
    assert found.value == pytest.approx(usual.value, rel=1e-12)
    many = solve_assignments(matrix[None])
    assert (many.solver, many.columns[0].tolist()) == ("scipy", found.columns.tolist())
    with pytest.raises(RuntimeError, match="C compiler"):
        solve_assignment(matrix, backend="lazy-jv")
    with pytest.raises(RuntimeError, match="C compiler"):
        solve_assignments(matrix[None], backend="lazy-jv")


@needs_fast_solver
def test_a_gap_beyond_rounding_sends_the_matrix_to_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUNDING", -1.0)
    matrix = make_similarity("gaussian", 60, seed=10)
    found = solve_assignment(matrix)
    check(matrix, found)
    assert found.solver == "scipy (lazy-jv: gap 0)"
    assert found.gap is None


@needs_fast_solver
def test_the_extension_checks_what_it_is_given() -> None:
    from rebasin_cli.matching.assignment import _lazy_jv

    good = (np.zeros((4, 4), np.float32), np.zeros(4), np.zeros(4, np.int64))
    assert _lazy_jv.gap(*good) == 0.0
    for place, wrong in [
        (0, np.zeros((4, 5), np.float32)),
        (0, np.zeros((1, 1), np.float32)),
        (0, np.zeros((4, 4), np.int32)),
        (0, np.zeros((4, 8), np.float32)[:, ::2]),
        (1, np.zeros(3)),
        (1, np.zeros(4, np.int64)),
        (2, np.zeros(4)),
        (2, np.zeros(4, np.int32)),
        (2, np.zeros((2, 2), np.int64)),
    ]:
        arguments = [*good[:place], wrong, *good[place + 1 :]]
        with pytest.raises(TypeError, match="needs an"):
            _lazy_jv.solve(*arguments)
    with pytest.raises(IndexError, match="row 0"):
        _lazy_jv.gap(good[0], good[1], np.full(4, 4))
    with pytest.raises(ValueError, match="finite"):
        _lazy_jv.solve(np.full((4, 4), np.nan), good[1], good[2])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 33, 80, 81, 130])
def test_many_at_once_are_each_solved_exactly(family: str, n: int, backend: Backend) -> None:
    matrices = np.stack([make_similarity(family, n, seed=seed) for seed in range(5)])
    found = solve_assignments(matrices, backend=backend)
    assert found.columns.shape == (5, n)
    assert found.columns.dtype == np.int64
    assert found.solver == ("trivial" if n == 1 else backend)
    for matrix, columns in zip(matrices, found.columns, strict=True):
        assert sorted(columns) == list(range(n))
        best = value_of(matrix, linear_sum_assignment(matrix, maximize=True)[1])
        assert value_of(matrix, columns) >= best - 1e-13 * scale_of(matrix)
    assert (found.gap is None) == (found.solver == "scipy")


@needs_fast_solver
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_many_at_once_are_proved_whatever_they_hold(data: st.DataObject) -> None:
    count, n = data.draw(st.integers(0, 6), label="count"), data.draw(st.integers(1, 9), label="n")
    kinds = [st.integers(-3, 3), st.integers(0, 1), st.floats(-(2.0**100), 2.0**100, width=32)]
    entries = kinds[data.draw(st.integers(0, 2), label="kind of entries")]
    dtype = data.draw(st.sampled_from([np.float32, np.float64]), label="dtype")
    matrices = data.draw(hnp.arrays(dtype, (count, n, n), elements=entries), label="matrices")
    found = solve_assignments(matrices)
    assert found.gap is not None
    for matrix, columns in zip(matrices, found.columns, strict=True):
        assert sorted(columns) == list(range(n))
        best = value_of(matrix, linear_sum_assignment(matrix, maximize=True)[1])
        assert value_of(matrix, columns) >= best - 1e-13 * scale_of(matrix)


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_at_once_take_any_strides_and_types(backend: Backend) -> None:
    matrices = torch.randn(6, 9, 9, generator=torch.Generator().manual_seed(1))
    wanted = solve_assignments(matrices, backend=backend).columns
    wide = torch.empty(6, 9, 20)
    wide[:, :, 3:12] = matrices
    for given_ in (matrices.double(), matrices.mT.contiguous().mT, wide[:, :, 3:12], matrices.numpy()):
        assert np.array_equal(solve_assignments(given_, backend=backend).columns, wanted)
    half = solve_assignments(matrices.bfloat16(), backend=backend).columns
    assert np.array_equal(half, solve_assignments(matrices.bfloat16().float(), backend=backend).columns)


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_at_once_name_the_entry_that_is_not_finite(backend: Backend) -> None:
    matrices = np.zeros((3, 4, 4), np.float32)
    matrices[1, 2, 3] = np.nan
    with pytest.raises(ContentError) as caught:
        solve_assignments(matrices, backend=backend)
    assert "row 2, column 3" in str(caught.value.where)
    with pytest.raises(ContentError, match="square"):
        solve_assignments(np.zeros((3, 4, 5), np.float32), backend=backend)


@needs_fast_solver
def test_the_compiled_solver_refuses_buffers_that_do_not_fit() -> None:
    assert module._lazy_jv is not None
    matrices, prices, columns, gaps = np.zeros((2, 3, 3)), np.zeros((2, 3)), np.zeros((2, 3), np.int64), np.zeros(2)
    wrong = [
        (matrices[0], prices, columns, gaps), (matrices[:, :, :2], prices, columns, gaps),
        (matrices.astype(np.int64), prices, columns, gaps), (matrices, prices[:, :2].copy(), columns, gaps),
        (matrices, prices, columns[:1], gaps), (matrices, prices, columns, np.zeros(3)),
        (matrices, prices, columns.astype(np.int32), gaps), (matrices, columns, columns, gaps),
    ]  # fmt: skip
    for arguments in wrong:
        with pytest.raises(TypeError):
            module._lazy_jv.solve_all(*arguments)
