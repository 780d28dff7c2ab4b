"""Matching with signs: what must hold for every method, against brute force, and planted elements."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rebasin_cli.matching.assignment.solve import solve_assignment
from rebasin_cli.matching.descent.quadratic import Quadratic, improve
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.frank_wolfe import match_by_frank_wolfe
from rebasin_cli.matching.objective import inner_product, measure_distance
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.portfolio import best_of, descents
from rebasin_cli.matching.problem import MatchResult, Problem, Resources
from rebasin_cli.matching.resources import Budget
from rebasin_cli.matching.similarity.blocks import Over, block_terms, blocks
from rebasin_cli.matching.similarity.contributions import Dense, Worth, forms_of
from rebasin_cli.matching.similarity.matrices import Similarities
from rebasin_cli.matching.sinkhorn import match_by_sinkhorn
from rebasin_cli.merging.many import match_many
from rebasin_cli.merging.models import Models
from rebasin_cli.merging.options import Algorithm, ManyOptions
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from tests.signed_networks import SIGNED, signed_forward, signed_layout, signed_state

METHODS: Mapping[str, Callable[[Problem, Resources], MatchResult]] = {
    "weights": match_by_weights,
    "as Algorithm 1": lambda p, r: match_by_weights(p, r, WeightsOptions(start="identity", order="random")),
    "without memory": lambda p, r: match_by_weights(p, Resources(seed=r.seed, memory=0)),
    "several starts": lambda p, r: best_of(descents(p, 6, r.seed)),
    "frank-wolfe": match_by_frank_wolfe,
    "sinkhorn": match_by_sinkhorn,
}


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("name", list(SIGNED))
def test_every_method(name: str, method: str) -> None:
    layout, a, b = signed_layout(name), signed_state(name, 1), signed_state(name, 2)
    problem = Problem(layout, a, b)
    result, again = (METHODS[method](problem, Resources(seed=3)) for _ in range(2))
    assert all(torch.equal(tensor, signed_state(name, 2)[key]) for key, tensor in b.items())
    moved = dict(permuted(result.permutation, layout, b))
    torch.testing.assert_close(signed_forward(name, moved), signed_forward(name, b), rtol=1e-9, atol=1e-9)
    assert all(after >= before for before, after in itertools.pairwise(result.objective))
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-10)
    assert result.permutation.has_signs
    assert sum(measure_distance(layout, a, b, result.permutation).gains.values()) == pytest.approx(
        result.objective[-1] - result.objective[0], rel=1e-9
    )
    stays = match_by_weights(problem, Resources(seed=5), WeightsOptions(start=result.permutation))
    assert stays.permutation.equals(result.permutation)
    assert again.permutation.equals(result.permutation)
    assert again.objective == result.objective


def test_signs_are_at_least_as_good_from_where_permutations_end() -> None:
    for name in SIGNED:
        problem = Problem(signed_layout(name), signed_state(name, 1), signed_state(name, 2))
        plain = match_by_weights(problem.without_signs())
        assert not plain.permutation.has_signs
        signed = match_by_weights(problem, options=WeightsOptions(start=plain.permutation))
        assert signed.objective[-1] >= plain.objective[-1]
        assert signed.permutation.has_signs or name == "elman"  # where no single sign gains anything


def test_threads_change_nothing() -> None:
    problem = Problem(signed_layout("stream"), signed_state("stream", 1), signed_state("stream", 2))
    with ThreadPoolExecutor(2) as executor:
        assert match_by_weights(problem, Resources(executor=executor)).permutation.equals(
            match_by_weights(problem).permutation
        )


def _signed_permutations(n: int) -> list[torch.Tensor]:
    signs = list(itertools.product((False, True), repeat=n))
    return [
        torch.tensor([~j if turned else j for j, turned in zip(order, some, strict=True)])
        for order in itertools.permutations(range(n))
        for some in signs
    ]


def test_the_assignment_with_signs_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    everything = _signed_permutations(4)
    for _ in range(20):
        turning, plain = (torch.randn(1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
        worth = Worth.of([Dense(turning), Dense(plain, frozenset({"h"}))], "h", signed=True)
        solved = solve_assignment(worth.best()[0])
        found = worth.signed(torch.from_numpy(solved.columns)[None])
        assert float(worth.total(found)) == pytest.approx(max(float(worth.total(p[None])) for p in everything))
        assert solved.value == pytest.approx(float(worth.total(found)))


def test_a_quadratic_step_with_signs_is_what_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    everything, reached = _signed_permutations(4), 0
    for _ in range(20):
        linear, a, b = (
            torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in [(4, 4), (2, 4, 4), (2, 4, 4)]
        )
        quadratic = Quadratic(linear, a, b, signed=True)

        def assign(gradient: torch.Tensor) -> torch.Tensor:
            worth = Worth(None, gradient[None])
            return worth.signed(torch.from_numpy(solve_assignment(worth.best()[0]).columns)[None])[0]

        found, gain = improve(quadratic, torch.arange(4), assign)
        assert gain == pytest.approx(quadratic.value(found) - quadratic.value(torch.arange(4)))
        best = max(map(quadratic.value, everything))
        assert quadratic.value(found) <= best + 1e-9
        reached += quadratic.value(found) >= best - 1e-9
    assert reached >= 10  # a local search: seldom far from the best


@pytest.mark.parametrize("name", list(SIGNED))
def test_a_planted_element_is_undone(name: str) -> None:
    layout, a = signed_layout(name), signed_state(name, 1)
    planted = Permutation.random(layout, 4)
    result = best_of(descents(Problem(layout, a, dict(permuted(planted, layout, a))), 5))
    assert result.permutation.equals(planted.inverse(layout))


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_kept_matrices_follow_turned_signs(budget: int) -> None:
    layout, a, b = signed_layout("stream"), signed_state("stream", 1), signed_state("stream", 2)
    problem, place = Problem(layout, a, b), torch.device("cpu")
    kept = Similarities(problem, torch.float64, place, Budget(budget))
    permutation = Permutation.random(layout, 3)
    for dim in (None, "s", "m", "v"):
        if dim:
            turned = permutation[dim].clone()
            turned.view(-1)[1] = ~turned.view(-1)[1]
            permutation = permutation.replace({dim: turned})
        for block in blocks(layout):
            terms = block_terms(problem, block, permutation, dtype=torch.float64, device=place)
            expected = {Over(dims, form.still): form for dims, forms in forms_of(terms).items() for form in forms}
            found = kept.matrices(block, permutation)
            assert set(found) == set(expected)
            for over, form in expected.items():
                assert isinstance(form, Dense)
                torch.testing.assert_close(found[over].reshape(form.gram.shape), form.gram)
    assert bool(kept.mends.total()) == bool(budget)


@pytest.mark.parametrize("name", ["stream", "experts"])
def test_forms_too_large_to_keep_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(signed_layout(name), signed_state(name, 1), signed_state(name, 2))
    expected = match_by_weights(problem)
    monkeypatch.setattr("rebasin_cli.matching.similarity.contributions.DENSE_LIMIT", 0)
    monkeypatch.setattr("rebasin_cli.matching.similarity.matrices.LARGEST", 0)
    monkeypatch.setattr("rebasin_cli.matching.descent.nested.TILE", 1)
    found = match_by_weights(problem)
    assert found.permutation.equals(expected.permutation)


@pytest.mark.parametrize("algorithm", ["to-first", "cycle-consistent"])
def test_models_of_a_merge_are_brought_back(algorithm: Algorithm) -> None:
    layout, first = signed_layout("stream"), signed_state("stream", 1)
    planted = [Permutation.random(layout, seed) for seed in (5, 6)]
    states = (first, *(dict(permuted(one, layout, first)) for one in planted))
    models = Models(layout, states, (1 / 3,) * 3)

    def match(problem: Problem, resources: Resources) -> MatchResult:
        return best_of(descents(problem, 5), resources)

    result = match_many(models, match, Resources(), ManyOptions(algorithm=algorithm))
    found = [permuted(p, layout, state) for p, state in zip(result.permutations, states, strict=True)]
    assert all(torch.equal(one[key], tensor) for one in found for key, tensor in first.items())
