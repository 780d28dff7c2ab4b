"""N models in one order of units: what every algorithm must hold, planted orders, and cycles that close."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.portfolio import best_of, descents
from rebasin_cli.matching.problem import MatchResult, Problem, Resources, StopMatching
from rebasin_cli.merging import many
from rebasin_cli.merging.many import ALGORITHMS, Match, match_many
from rebasin_cli.merging.models import Mean, Means, Models, pairwise_distances, total_similarity
from rebasin_cli.merging.options import Algorithm, ManyOptions
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout
from tests.networks import TINY, tiny_layout, tiny_state


def matcher(layout: Layout, count: int = 1) -> Match:
    def match(problem: Problem, resources: Resources) -> MatchResult:
        return best_of(descents(problem, count))

    return match


def states(name: str, count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    return [tiny_state(name, seed + i) for i in range(count)]


@pytest.fixture(params=["chain", "residual", "heads", "experts", "recurrent"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_objective_never_falls_and_is_what_it_says(name: str, algorithm: Algorithm, tmp_path: Path) -> None:
    layout, found = tiny_layout(name, tmp_path), states(name, 4)
    weights = (1, 2, 1, 4)
    result = match_many(Models.of(layout, found, weights), matcher(layout), options=ManyOptions(algorithm=algorithm))
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(result.objective))
    moved = [dict(permuted(p, layout, s)) for p, s in zip(result.permutations, found, strict=True)]
    one = Permutation.identity(layout)
    pairs = {(i, j): inner_product(layout, moved[i], moved[j], one) for i, j in itertools.combinations(range(4), 2)}
    expected = sum(weights[i] * weights[j] / 64 * value for (i, j), value in pairs.items())
    assert result.objective[-1] == pytest.approx(expected, rel=1e-6)
    assert result.objective[-1] > result.objective[0]
    assert result.permutations[0].equals(one)
    for i, state in enumerate(found):
        assert all(torch.equal(state[key], tiny_state(name, i)[key]) for key in state)


def test_a_cycle_leads_back_to_where_it_began(name: str, tmp_path: Path) -> None:
    """i ← j is π_j followed by the inverse of π_i; around any cycle the composition is the identity."""
    layout = tiny_layout(name, tmp_path)
    permutations = match_many(Models.of(layout, states(name, 4)), matcher(layout)).permutations

    def onto(i: int, j: int) -> Permutation:
        return permutations[j].compose(permutations[i].inverse(layout), layout)

    assert not onto(1, 2).equals(Permutation.identity(layout))
    for cycle in ((0, 1, 2), (1, 2, 3), (3, 1, 0, 2)):
        way = Permutation.identity(layout)
        for i, j in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
            way = onto(i, j).compose(way, layout)  # what is in j's order goes to i's, and on to those before
        assert way.equals(Permutation.identity(layout))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_planted_orders_are_undone(name: str, algorithm: Algorithm, tmp_path: Path) -> None:
    layout, a = tiny_layout(name, tmp_path), tiny_state(name, 1)
    planted = [Permutation.identity(layout), *(Permutation.random(layout, seed) for seed in (7, 8, 9))]
    found = [dict(permuted(p, layout, a)) for p in planted]
    result = match_many(Models.of(layout, found), matcher(layout, 12), options=ManyOptions(algorithm=algorithm))
    for permutation, plant in zip(result.permutations, planted, strict=True):
        assert permutation.equals(plant.inverse(layout))
    mean = Mean(Models(layout, tuple(found), (0.25,) * 4), result.permutations, range(4))
    assert all(torch.equal(mean[key], a[key]) for key in a)
    distances = pairwise_distances(Models(layout, tuple(found), (0.25,) * 4), result.permutations)
    assert len(distances) == 6
    assert all(pair.after == 0 < pair.before for pair in distances.values())
    assert all(pair.cosine == pytest.approx(1) for pair in distances.values())


def test_joint_steps_reach_at_least_their_beginning(name: str, tmp_path: Path) -> None:
    layout, found = tiny_layout(name, tmp_path), states(name, 5, seed=20)
    algorithms: tuple[Algorithm, ...] = ("hierarchical", "cycle-consistent")
    begun, joint = (
        match_many(Models.of(layout, found), matcher(layout), options=ManyOptions(algorithm=algorithm)).objective[-1]
        for algorithm in algorithms
    )
    assert joint >= begun - 1e-9


def test_the_same_seed_gives_the_same_result(tmp_path: Path) -> None:
    layout, found = tiny_layout("residual", tmp_path), states("residual", 4)
    one, two = (
        match_many(
            Models.of(layout, found), matcher(layout), Resources(seed=3), options=ManyOptions(algorithm="merge-many")
        )
        for _ in range(2)
    )
    assert all(x.equals(y) for x, y in zip(one.permutations, two.permutations, strict=True))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_told_to_stop_it_returns_what_it_has(algorithm: Algorithm, tmp_path: Path) -> None:
    layout, found = tiny_layout("chain", tmp_path), states("chain", 4)

    def on_round(what: str, done: int, of: int) -> None:
        raise StopMatching("time")

    result = match_many(
        Models.of(layout, found), matcher(layout), options=ManyOptions(algorithm=algorithm), on_round=on_round
    )
    assert result.stop == "time"
    models = Models(layout, tuple(found), (0.25,) * 4)
    assert result.objective[-1] == pytest.approx(total_similarity(models, result.permutations), rel=1e-6)


def test_the_mean_weighs(tmp_path: Path) -> None:
    layout, found = tiny_layout("chain", tmp_path), states("chain", 3)
    one = (Permutation.identity(layout),) * 3
    mean = Mean(Models(layout, tuple(found), (0.5, 0.3, 0.2)), one, range(3))
    for key in TINY["chain"].shapes:
        expected = 0.5 * found[0][key] + 0.3 * found[1][key] + 0.2 * found[2][key]
        assert torch.allclose(mean[key], expected, atol=1e-12)


def test_means_are_of_where_the_others_are_now(tmp_path: Path) -> None:
    layout, found = tiny_layout("residual", tmp_path), states("residual", 3)
    models = Models(layout, tuple(found), (0.5, 0.3, 0.2))
    places = [Permutation.random(layout, seed) for seed in range(3)]
    means = Means(models, None)
    for i in (0, 1, 2, 1):
        mean, expected = means.without(i, places), Mean(models, places, [j for j in range(3) if j != i])
        assert all(torch.equal(mean[key], expected[key]) for key in TINY["residual"].shapes)
        places[i] = Permutation.random(layout, 10 + i)


def test_the_first_two_models_are_matched_once(tmp_path: Path) -> None:
    models = Models.of(tiny_layout("recurrent", tmp_path), states("recurrent", 4))
    searched: list[Problem] = []

    def match(problem: Problem, resources: Resources) -> MatchResult:
        searched.append(problem)
        return best_of(descents(problem, 1))

    match_many(models, match)
    problems = [{key: (p.a[key], p.b[key]) for key in p.a} for p in searched]
    for one, two in itertools.combinations(problems, 2):
        assert not all(torch.equal(one[key][side], two[key][side]) for key in one for side in (0, 1))


def test_models_whose_match_from_the_start_came_nowhere_near_are_not_matched_so_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, models = tiny_layout("recurrent", tmp_path), states("recurrent", 6, seed=3)
    searched: list[Problem] = []

    def match(problem: Problem, resources: Resources) -> MatchResult:
        searched.append(problem)
        return best_of(descents(problem, 1))

    result = match_many(Models.of(layout, models), match)
    few = len(searched)
    searched.clear()
    monkeypatch.setattr(many, "FAR", float("inf"))
    every = match_many(Models.of(layout, models), match)
    assert few < len(searched)
    assert result.objective == every.objective
