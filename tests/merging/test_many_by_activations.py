"""N models brought together by activations: planted orders are found, and units within owners keep their places."""

from __future__ import annotations

from itertools import permutations as orders
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rebasin_cli.matching.problem import ActivationProblem
from rebasin_cli.merging import many_by_activations
from rebasin_cli.merging.many_by_activations import match_many_by_activations
from rebasin_cli.merging.models import Models
from rebasin_cli.merging.options import BY_ACTIVATIONS, Algorithm, ManyOptions
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout
from tests.evaluation.building import network_for
from tests.matching.data.test_activations import both, images, states
from tests.networks import tiny_layout


def planted(family: str, count: int) -> tuple[Layout, list[dict[str, Tensor]]]:
    from tests.evaluation.building import layout_of

    first = states(family)
    layout = layout_of(family, first)
    rest = (permuted(Permutation.random(layout, seed), layout, first) for seed in range(1, count))
    return layout, [first, *({key: view[key] for key in first} for view in rest)]


@pytest.mark.parametrize("algorithm", BY_ACTIVATIONS)
@pytest.mark.parametrize("family", ["mlp", "resnet-basic"])
def test_one_network_in_four_orders_is_itself(family: str, algorithm: Algorithm) -> None:
    layout, models = planted(family, 4)
    network = network_for(family, models[0])

    def pair(i: int, j: int) -> ActivationProblem:
        return ActivationProblem(layout, models[i], models[j], both(family, models[i], models[j], images()))

    result = match_many_by_activations(Models.of(layout, models), pair, options=ManyOptions(algorithm))
    assert result.stop == "converged"
    assert not result.notes
    assert all(result.permutations[0].fraction_moved(dim) == 0 for dim in layout.moving())
    for state, permutation in zip(models, result.permutations, strict=True):
        moved = permuted(permutation, layout, state)
        mean = {key: (moved[key] + models[0][key]) / 2 for key in moved}
        torch.testing.assert_close(network(mean, images()), network(models[0], images()))


def test_units_in_places_of_owners(tmp_path: Path) -> None:
    """Gathered in one axis as the permutation says of a tensor with the same units."""
    layout = tiny_layout("heads", tmp_path)
    inner = next(dim for dim in layout.moving() if layout.dims[dim].owner is not None)
    outer = layout.dims[inner].owner
    assert outer is not None
    sizes = [layout.dims[dim].size for dim in (outer, inner)]
    gram = torch.randn(*sizes, *sizes)
    permutation = Permutation.random(layout, 3)
    found = many_by_activations._gathered(layout, (outer, inner), gram, permutation)
    for place in range(sizes[0]):
        for unit in range(sizes[1]):
            source = int(permutation[outer][place]), int(permutation[inner][place, unit])
            assert torch.equal(found[place, unit], gram[source])
    turned = many_by_activations._turned(gram)
    assert torch.equal(turned[1, 2, 0, 1], gram[0, 1, 1, 2])


def test_the_best_of_all_orders_of_three_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brute force over three units: one model after the other ends where no single one could be placed better."""
    layout, models = planted("mlp", 3)
    generator = torch.Generator().manual_seed(5)
    grams = {pair: torch.randn(9, 9, generator=generator, dtype=torch.float64) for pair in ((0, 1), (0, 2), (1, 2))}
    rest = torch.eye(7, dtype=torch.float64)
    taken = iter(grams.values())
    monkeypatch.setattr(
        many_by_activations, "pair_grams", lambda *_, **__: {("h.0",): next(taken), ("h.1",): rest}
    )  # fmt: skip

    def pair(i: int, j: int) -> ActivationProblem:
        return ActivationProblem(layout, models[i], models[j], lambda one, two: None)

    found = match_many_by_activations(Models.of(layout, models), pair).permutations

    def value(placed: list[Tensor]) -> float:
        return sum(float(grams[i, j][placed[i], placed[j]].sum()) for i, j in grams)

    present = [permutation["h.0"] for permutation in found]
    best = value(present)
    assert best > value([torch.arange(9)] * 3)
    for number in range(3):
        for one, two in orders(range(9), 2):
            other = list(present)
            other[number] = present[number].clone()
            other[number][[one, two]] = other[number][[two, one]]
            assert value(other) <= best + 1e-9
