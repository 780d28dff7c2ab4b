"""N models with rotations in one order: the objective never falls, is what it says, and planted elements are undone."""

from __future__ import annotations

import itertools
from math import sqrt

import pytest
import torch
from torch import Tensor

from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.rotations import canonical, match_between_forms
from rebasin_cli.merging.many import ManyResult, match_many
from rebasin_cli.merging.models import Models, pairwise_distances
from rebasin_cli.merging.options import Algorithm, ManyOptions
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from tests.rotated_networks import rotated_layout, rotated_state

ROTATED: tuple[Algorithm, ...] = ("cycle-consistent", "merge-many", "to-first", "hierarchical")
NOISE = 1e-3


def matched(name: str, models: list[dict[str, Tensor]], algorithm: Algorithm) -> tuple[Models, ManyResult]:
    """Models in their canonical forms, and how they were matched."""
    layout = rotated_layout(name)
    forms = Models.of(layout.without_scales(), [canonical(layout, state).state for state in models], (1, 2, 1))
    options = ManyOptions(algorithm=algorithm)
    return forms, match_many(forms, match_between_forms, options=options, refine=match_between_forms)


@pytest.mark.parametrize("name", ["layer", "rms"])
@pytest.mark.parametrize("algorithm", ROTATED)
def test_the_objective_never_falls_and_is_what_it_says(name: str, algorithm: Algorithm) -> None:
    forms, result = matched(name, [rotated_state(name, seed) for seed in range(3)], algorithm)
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(result.objective))
    assert result.objective[-1] > result.objective[0]
    one = Permutation.identity(forms.layout)
    assert result.permutations[0].equals(one)
    moved = [dict(permuted(p, forms.layout, s)) for p, s in zip(result.permutations, forms.states, strict=True)]
    expected = sum(
        forms.weights[i] * forms.weights[j] * inner_product(forms.layout, moved[i], moved[j], one)
        for i, j in itertools.combinations(range(3), 2)
    )
    assert result.objective[-1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_all_together_come_no_further_apart_than_each_onto_the_first(name: str) -> None:
    models = [rotated_state(name, seed) for seed in range(3)]
    together, first = (matched(name, models, algorithm)[1] for algorithm in ("cycle-consistent", "to-first"))
    assert together.objective[-1] > first.objective[-1]


@pytest.mark.parametrize("name", ["layer", "rms"])
@pytest.mark.parametrize("algorithm", ROTATED)
def test_planted_elements_are_undone_to_the_noise(name: str, algorithm: Algorithm) -> None:
    layout, a = rotated_layout(name), rotated_state(name, 1)
    planted = [a]
    for seed in (2, 3):
        generator = torch.Generator().manual_seed(seed)
        noisy = {
            key: tensor + NOISE * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            for key, tensor in a.items()
        }
        planted.append(dict(permuted(Permutation.random(layout, seed), layout, noisy)))
    forms, result = matched(name, planted, algorithm)
    noise = NOISE * sqrt(2 * sum(tensor.numel() for tensor in a.values()))
    for distance in pairwise_distances(forms, result.permutations).values():
        assert distance.before > 100 * noise
        assert distance.after < 3 * noise
