"""Frank-Wolfe on N models: what it says of its matrices is so, its steps are exact, and it never ends below."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from rebasin_cli.errors import ContentError
from rebasin_cli.matching.descent.weights import joint_dims
from rebasin_cli.matching.options import STARTS, RelaxedStart
from rebasin_cli.merging.frank_wolfe_many import _Joint, best_step, frank_wolfe_many
from rebasin_cli.merging.many import match_many
from rebasin_cli.merging.models import Models, total_similarity
from rebasin_cli.merging.options import ManyOptions
from rebasin_cli.permutation.values import Permutation
from tests.merging.test_many import matcher, states
from tests.networks import TINY, tiny_layout

SHARED = ["chain", "residual", "heads", "experts", "recurrent", "concatenation", "flatten", "tied"]
"""The networks in which some dims can move together."""


def models_of(name: str, folder: Path, seed: int = 0, weights: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)) -> Models:
    return Models(tiny_layout(name, folder), tuple(states(name, len(weights), seed)), weights)


@pytest.mark.parametrize("name", SHARED)
def test_at_permutations_it_is_the_objective_of_all_algorithms(name: str, tmp_path: Path) -> None:
    models = models_of(name, tmp_path)
    layout = models.layout
    held = (Permutation.identity(layout), *(Permutation.random(layout, seed) for seed in range(3)))
    joint = _Joint(models, held, torch.device("cpu"))

    def value(seed: int) -> tuple[float, float]:
        found = [Permutation.random(layout, seed + i) for i in range(3)]
        free = joint_dims(layout)
        moved = [one.replace({dim: two[dim] for dim in free}) for one, two in zip(held[1:], found, strict=True)]
        matrices = [{dim: joint.eye[dim][perm[dim]] for dim in free} for perm in moved]
        return float(joint.value(matrices)), total_similarity(models, (held[0], *moved))

    (one, one_total), (two, two_total) = value(10), value(20)
    assert one - two == pytest.approx(one_total - two_total, rel=1e-9)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", SHARED)
def test_every_step_is_the_best_on_its_way(name: str, start: RelaxedStart, tmp_path: Path) -> None:
    models = models_of(name, tmp_path)
    joint = _Joint(models, (Permutation.identity(models.layout),) * 4, torch.device("cpu"))
    present = joint.start(start)
    steps = 0
    while (found := joint.step(present)) is not None and steps < 15:
        reached = float(joint.value(found))
        assert reached > float(joint.value(present))
        for size in np.linspace(0, 1.0, 11):  # nothing between here and there is higher
            between = [
                {d: x + size * (y[d] - x) for d, x in one.items()} for one, y in zip(present, found, strict=True)
            ]
            assert float(joint.value(between)) <= reached + 1e-9 * abs(reached)
        for one in found:
            for matrix in one.values():
                torch.testing.assert_close(matrix.sum(0), torch.ones(len(matrix), dtype=torch.float64))
                torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64))
        present = found
        steps += 1
    assert steps > 0


def test_the_best_step_of_a_polynomial_of_degree_four() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        curve = np.polynomial.Polynomial(generator.standard_normal(5))
        found = best_step(float(curve(0.0)), float(curve.deriv()(0.0)), lambda t, curve=curve: float(curve(t)))  # type: ignore[misc]
        assert 0 <= found <= 1
        assert curve(found) >= curve(np.linspace(0, 1, 1001)).max() - 1e-9


@pytest.mark.parametrize("name", SHARED)
def test_it_is_never_below_cycle_consistent(name: str, tmp_path: Path) -> None:
    gains = []
    gaining = name in ("chain", "residual")
    for seed in range(0, 40 if gaining else 10, 10):
        layout, found = tiny_layout(name, tmp_path), states(name, 4, seed)
        plain, joint = (
            match_many(Models.of(layout, found), matcher(layout), options=ManyOptions(algorithm=algorithm)).objective[
                -1
            ]
            for algorithm in ("cycle-consistent", "frank-wolfe")
        )
        gains.append(joint - plain)
    assert min(gains) >= 0
    if gaining:
        assert max(gains) > 0


@pytest.mark.parametrize("start", STARTS)
def test_ways_around_cycles_lead_back(start: RelaxedStart, tmp_path: Path) -> None:
    """As it comes from Frank-Wolfe, before any polishing."""
    models = models_of("residual", tmp_path)
    layout = models.layout
    held = (Permutation.identity(layout),) * 4
    found = frank_wolfe_many(models, held, start=start, device="cpu", tell=lambda done, of: True)
    assert found[0].equals(Permutation.identity(layout))
    assert not found[1].equals(found[2])
    for cycle in itertools.permutations(range(4), 3):
        way = Permutation.identity(layout)
        for i, j in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
            way = found[j].compose(found[i].inverse(layout), layout).compose(way, layout)
        assert way.equals(Permutation.identity(layout))


def test_where_no_dims_move_together_it_says_so(tmp_path: Path) -> None:
    layout = tiny_layout("groups", tmp_path)
    assert set(TINY) == {*SHARED, "groups"}
    with pytest.raises(ContentError, match="none can move so"):
        match_many(
            Models.of(layout, states("groups", 3)), matcher(layout), options=ManyOptions(algorithm="frank-wolfe")
        )
