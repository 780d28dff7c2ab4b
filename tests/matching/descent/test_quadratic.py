"""Dims on two sides of one tensor: every quantity against its definition, every accepted step upwards."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from rebasin_cli.matching.assignment.solve import solve_assignment
from rebasin_cli.matching.descent.quadratic import Quadratic, improve, swap_gains
from rebasin_cli.matching.descent.sweep import Descent
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.problem import Problem, Resources
from rebasin_cli.matching.resources import Budget
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import bind, load_spec
from tests.networks import tiny_layout, tiny_state


def random_quadratic(n: int, seed: int, *, signed: bool = False) -> Quadratic:
    generator = torch.Generator().manual_seed(seed)
    linear, a, b = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((n, n), (4, n, n), (4, n, n)))
    return Quadratic(linear, a, b, signed)


def assign(matrix: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(solve_assignment(matrix).columns)


@pytest.mark.parametrize("turned", [(), (1, 3, 4)])
def test_swap_gains_are_the_differences_of_the_objective(turned: tuple[int, ...]) -> None:
    quadratic = random_quadratic(6, 0, signed=bool(turned))
    perm = torch.tensor([3, 1, 5, 0, 2, 4])
    perm[list(turned)] = ~perm[list(turned)]
    gains = swap_gains(quadratic, perm)
    for i, j in itertools.combinations(range(6), 2):
        swapped = perm.clone()
        swapped[i], swapped[j] = perm[j], perm[i]
        assert float(gains[i, j]) == pytest.approx(quadratic.value(swapped) - quadratic.value(perm), abs=1e-9)


def test_gradients_of_two_permutations_give_the_objective_of_the_segment_between_them() -> None:
    quadratic = random_quadratic(5, 1)
    one, two = torch.tensor([2, 0, 1, 4, 3]), torch.arange(5)
    way = torch.eye(5, dtype=torch.float64)[two] - torch.eye(5, dtype=torch.float64)[one]
    here, there = quadratic.gradient(one), quadratic.gradient(two)
    reached = quadratic.value(one) + float((here * way).sum()) + 0.5 * float(((there - here) * way).sum())
    assert reached == pytest.approx(quadratic.value(two), abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_improve_never_lowers_and_ends_where_no_swap_helps(seed: int) -> None:
    quadratic = random_quadratic(7, seed)
    start = torch.arange(7)
    found, gain = improve(quadratic, start, assign)
    assert gain >= 0
    assert quadratic.value(found) == pytest.approx(quadratic.value(start) + gain)
    assert float(swap_gains(quadratic, found).max()) <= 1e-9 * abs(quadratic.value(found))


def test_kept_pairs_say_nothing_of_another_linear_part() -> None:
    one, perm = random_quadratic(6, 2), torch.tensor([3, 1, 5, 0, 2, 4])
    improve(one, torch.arange(6), assign)  # fills what it remembers
    linear = torch.rand(6, 6, dtype=torch.float64)
    beside, afresh = one.beside(linear), Quadratic(linear, one.a, one.b)
    for at in (perm, torch.arange(6)):
        assert beside.value(at) == afresh.value(at)
        assert torch.equal(beside.gradient(at), afresh.gradient(at))


def test_a_dim_at_rest_is_left_alone_until_another_one_moves(tmp_path: Path) -> None:
    layout = tiny_layout("recurrent", tmp_path)
    problem = Problem(layout, tiny_state("recurrent", 1), tiny_state("recurrent", 2))
    descent = Descent(problem, Permutation.identity(layout), torch.float64, torch.device("cpu"), Budget(1 << 20))
    (block,) = (block for block in descent.blocks if block.root == "h")
    gained, _ = descent.sweep([block])
    assert gained > 0
    assert block.root not in descent.open


def test_a_planted_permutation_is_found_from_identity() -> None:
    """Where the linearised assignment alone mostly goes astray, the planted optimum is found nearly always."""
    reached = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        a = torch.randn(4, 12, 12, generator=generator, dtype=torch.float64)
        planted = torch.randperm(12, generator=generator)
        b = a[:, planted][:, :, planted] + 0.05 * torch.randn(a.shape, generator=generator, dtype=torch.float64)
        quadratic = Quadratic(torch.zeros(12, 12, dtype=torch.float64), a, b)
        found, _ = improve(quadratic, torch.arange(12), assign)
        reached.append(quadratic.value(found) / quadratic.value(torch.argsort(planted)))
    assert max(reached) <= 1 + 1e-12
    assert sum(share > 1 - 1e-12 for share in reached) >= 8, reached


@pytest.mark.parametrize("seed", range(6))
def test_a_recurrent_network_only_ever_rises(seed: int, tmp_path: Path) -> None:
    layout, a, b = tiny_layout("recurrent", tmp_path), tiny_state("recurrent", seed), tiny_state("recurrent", seed + 50)
    result = match_by_weights(Problem(layout, a, b), Resources(seed=seed))
    assert all(after >= before for before, after in itertools.pairwise(result.objective))
    assert result.objective[-1] > result.objective[0]
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-9)


@pytest.mark.parametrize("seed", [4, 13, 46])
def test_owners_on_two_sides_are_solved_until_nothing_rises(seed: int, tmp_path: Path) -> None:
    """One block, whose step is linearised where it is: the first step leaves much to the next ones."""
    path = tmp_path / "twice.yaml"
    path.write_text("sizes:\n  h: [3]\ndims:\n  v: within h\ntensors:\n  w: (h v) (h v)\n  x: (h v) _\n")
    shapes = {"w": (12, 12), "x": (12, 3)}
    layout = bind(load_spec(path), shapes)
    generator = torch.Generator().manual_seed(seed)
    a, b = ({k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in shapes.items()} for _ in "ab")
    problem = Problem(layout, a, b)
    found = match_by_weights(problem, options=WeightsOptions(start="identity"))
    once = match_by_weights(problem, options=WeightsOptions(start="identity", max_sweeps=1))
    assert found.objective[-1] > once.objective[-1] + 10
    assert match_by_weights(problem, options=WeightsOptions(start=found.permutation)).permutation.equals(
        found.permutation
    )
