"""What a part of a product proves is what all of it says; where it proves nothing, all of it is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rebasin_cli.matching import Problem, Resources, WeightsOptions, match_by_weights, measure_distance
from rebasin_cli.matching.assignment import solve_assignment
from rebasin_cli.matching.evident import Evident, prove, sketch, worth_trying
from rebasin_cli.matching.measures import inner_product
from rebasin_cli.permutation import Permutation, permuted
from rebasin_cli.spec import Layout, bind, load_spec
from tests.networks import TINY, tiny_layout, tiny_state

N, COLUMNS = 60, 2000
PARTS = [100] * 20


def pair(noise: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and the permutation: row i of A is row found[i] of B and noise."""
    generator = torch.Generator().manual_seed(seed)
    a, more = (torch.randn(N, COLUMNS, generator=generator, dtype=dtype) for _ in range(2))
    hidden = torch.randperm(N, generator=generator)
    b = torch.empty_like(a)
    b[hidden] = a + noise * more
    return a, b, hidden


def parts_of(a: Tensor, b: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
    return lambda part: (a[:, 100 * part : 100 * part + 100], b[:, 100 * part : 100 * part + 100])


def proved(a: Tensor, b: Tensor, share: float = 0.1) -> tuple[Evident | None, Tensor]:
    matrix = torch.zeros(N, N, dtype=a.dtype)
    return prove(matrix, parts_of(a, b), PARTS, torch.arange(N), share), matrix


def check(a: Tensor, b: Tensor, share: float = 0.1) -> Evident | None:
    found, matrix = proved(a, b, share)
    whole = a.double() @ b.double().T
    best = solve_assignment(whole)
    if found is None:
        torch.testing.assert_close(matrix.double(), whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
        return None
    assert found.is_proved
    rows = torch.arange(N)
    scale = float(a.double().norm() * b.double().norm())
    assert sorted(found.columns.tolist()) == rows.tolist()
    assert float(whole[rows, found.columns].sum()) == pytest.approx(best.value, abs=1e-6 * scale)
    assert found.value == pytest.approx(best.value, abs=1e-6 * scale)
    assert found.before == pytest.approx(float(whole.diagonal().sum()), abs=1e-6 * scale)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5, 1.0])
def test_copies_are_evident(noise: float, dtype: torch.dtype) -> None:
    a, b, hidden = pair(noise, dtype=dtype)
    found = check(a, b)
    assert found is not None
    assert torch.equal(found.columns, hidden)


def test_what_lies_in_columns_is_read_as_well() -> None:
    a, b, hidden = pair(0.1)
    found = check(a.T.contiguous().T, b.T.contiguous().T)
    assert found is not None
    assert torch.equal(found.columns, hidden)


def test_units_of_any_size_and_dead_ones() -> None:
    """A unit a thousand times as large as another, and units that are zero on one side or on both."""
    a, b, hidden = pair(0.1)
    size = torch.logspace(-2, 1, N)
    a *= size[:, None]
    b[hidden] *= size[:, None]
    a[[3, 5]] = 0
    b[hidden[[3, 5]]] = 0
    found = check(a, b)
    assert found is not None
    alive = [i for i in range(N) if i not in (3, 5)]
    assert torch.equal(found.columns[alive], hidden[alive])


def test_a_copy_costs_a_share_of_the_product() -> None:
    a, b, _ = pair(0.05)
    made: list[int] = []
    matrix = torch.zeros(N, N)
    prove(matrix, lambda part: made.append(part) or parts_of(a, b)(part), PARTS, torch.arange(N), 0.1)  # type: ignore[func-returns-value]
    assert made == list(range(len(PARTS)))  # each once: the first two for their product, the others in passing
    torch.testing.assert_close(matrix, a[:, :200] @ b[:, :200].T, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("noise", [8.0, 30.0])
def test_where_nothing_is_proved_the_matrix_is_whole(noise: float) -> None:
    a, b, _ = pair(noise)
    assert check(a, b) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_proves_nothing(bad: float) -> None:
    a, b, _ = pair(0.1)
    b[7, -1] = bad
    found, matrix = proved(a, b)
    assert found is None
    assert not matrix.isfinite().all()


def test_the_first_columns_do_not_have_the_last_word() -> None:
    """Two thirds of what there is say something else than the first columns."""
    one, _, _ = pair(0.0, 1)
    other = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    b = one.clone()
    b[other, 700:] = one[:, 700:]
    assert check(one, b) is None


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**31), st.floats(0, 2), st.floats(0.01, 1), st.floats(0, 1), st.integers(0, N))
def test_what_is_proved_is_so(seed: int, noise: float, share: float, bad: float, dead: int) -> None:
    """Copies with some units replaced, at all sizes, some dead: proved or not, it is the best."""
    a, b, _ = pair(noise, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    size = 10 ** (2 * torch.rand(N, generator=generator) - 1)
    a, b = a * size[:, None], b * size[torch.randperm(N, generator=generator)][:, None]
    replaced = torch.rand(N, generator=generator) < bad / 3
    b[replaced] = torch.randn(int(replaced.sum()), COLUMNS, generator=generator)
    a[:dead] = 0
    check(a, b, share)


def test_a_sketch_knows_what_its_pairs_are_worth() -> None:
    a, b, hidden = pair(1.0)
    matrix = torch.zeros(N, N)
    found = sketch(matrix, parts_of(a, b), PARTS, torch.arange(N))
    assert found is not None
    assert torch.equal(found.columns, hidden)
    assert found.value == pytest.approx(float((a * b[hidden]).sum()), rel=1e-5)
    assert found.before == pytest.approx(float((a * b).sum()), abs=1e-5 * found.value)
    assert not found.is_proved
    assert sketch(torch.zeros(N, N), parts_of(a, b), PARTS[:5], torch.arange(N)) is None


def test_a_few_columns_tell_whether_it_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebasin_cli.matching.evident.PASSING", 0)
    shares = [worth_trying(*(side[:, :256] for side in pair(noise)[:2]), 10**6) for noise in (0.0, 0.3, 1.0)]
    assert shares == sorted(shares)  # type: ignore[type-var]
    assert 0 < (shares[0] or 1) < 0.02 < 0.2 < (shares[2] or 1) < 0.4
    for noise in (4.0, 1e6):
        assert worth_trying(*(side[:, :256] for side in pair(noise)[:2]), 10**6) is None
    assert worth_trying(torch.zeros(9, 9), torch.zeros(9, 9), 9) is None
    monkeypatch.undo()
    assert worth_trying(*(side[:, :256] for side in pair(0.0)[:2]), 10**6) is None  # so few units are soon multiplied


@pytest.fixture
def from_few_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebasin_cli.matching.similarity.ROWS", 2)
    monkeypatch.setattr("rebasin_cli.matching.parts.LEAST", 8)
    monkeypatch.setattr("rebasin_cli.matching.similarity.SKETCHED", 4)
    monkeypatch.setattr("rebasin_cli.matching.evident.SKETCHED", 4)
    monkeypatch.setattr("rebasin_cli.matching.evident.PASSING", 0)
    monkeypatch.setattr("rebasin_cli.matching.evident.CHANCE", 0.0)
    monkeypatch.setattr("rebasin_cli.matching.evident.SPREAD", 0.0)


def wide(tmp_path: Path) -> tuple[Layout, dict[str, Tensor], dict[str, Tensor], Permutation]:
    path = tmp_path / "wide.yaml"
    path.write_text('tensors:\n  "{i}.weight": h.{i} h.{prev i} _ _\ndims:\n  h.{last i}: fixed\n')
    shapes = {
        "0.weight": (40, 3, 5, 5),
        "1.weight": (60, 40, 3, 3),
        "2.weight": (50, 60, 3, 3),
        "3.weight": (4, 50, 3, 3),
    }
    layout = bind(load_spec(path), shapes)
    generator = torch.Generator().manual_seed(0)
    a, more = ({key: torch.randn(shape, generator=generator) for key, shape in shapes.items()} for _ in range(2))
    planted = Permutation.random(layout, 5)
    moved = permuted(planted, layout, a)
    return layout, a, {key: moved[key] + 0.2 * more[key] for key in a}, planted.inverse(layout)


@pytest.mark.parametrize("start", ["anchored", "identity"])
@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.usefixtures("from_few_units")
def test_a_descent_finds_what_it_would_from_whole_matrices(memory: int | None, start: str, tmp_path: Path) -> None:
    layout, a, b, planted = wide(tmp_path)
    found = match_by_weights(Problem(layout, a, b), Resources(memory=memory), WeightsOptions(start=start))  # type: ignore[arg-type]
    assert found.solvers["evident"] > 0
    assert ("sketched" in found.solvers) == (start == "anchored")
    assert found.permutation.equals(planted)
    assert found.gap == pytest.approx(0.0, abs=1e-9)
    assert found.objective[-1] == pytest.approx(inner_product(layout, a, b, planted), rel=1e-6)
    gains = measure_distance(layout, a, b, found.permutation).gains
    assert found.objective[-1] - found.objective[0] == pytest.approx(sum(gains.values()), rel=1e-5)


@pytest.mark.parametrize("name", list(TINY))
@pytest.mark.usefixtures("from_few_units")
def test_nothing_goes_wrong_with_any_kind_of_network(name: str, tmp_path: Path) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    found = match_by_weights(Problem(layout, a, b))
    assert found.objective[-1] == pytest.approx(inner_product(layout, a, b, found.permutation), rel=1e-6)
    assert match_by_weights(Problem(layout, a, b), options=WeightsOptions(start=found.permutation)).permutation.equals(
        found.permutation
    )
