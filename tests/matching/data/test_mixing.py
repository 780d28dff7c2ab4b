"""Weights and activations together: what was planted is found, and neither alone is better by both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rebasin_cli.matching.data.activations import match_by_activations, pair_grams
from rebasin_cli.matching.data.mixing import best_by_both, by_forms, forms_beside, norms_of, worth_beside
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.options import ActivationOptions
from rebasin_cli.matching.problem import ActivationProblem
from rebasin_cli.merging.many_by_activations import match_many_by_activations
from rebasin_cli.merging.models import Models
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from tests.evaluation.building import layout_of
from tests.matching.data.test_activations import both, images, states


def shifted(state: dict[str, Tensor], seed: int, by: float) -> dict[str, Tensor]:
    """A network near another one."""
    generator = torch.Generator().manual_seed(seed)
    moved = {k: t for k, t in state.items() if t.is_floating_point() and t.dim() > 1}
    return state | {k: t + by * torch.randn(t.shape, generator=generator, dtype=t.dtype) for k, t in moved.items()}


def problem_of(family: str, b: dict[str, Tensor]) -> ActivationProblem:
    a = states(family)
    return ActivationProblem(layout_of(family, a), a, b, both(family, a, b, images()))


@pytest.mark.parametrize("mix", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("family", ["mlp", "resnet-basic"])
def test_a_planted_permutation_is_found(family: str, mix: float) -> None:
    a = states(family)
    layout = layout_of(family, a)
    planted = Permutation.random(layout, 5)
    b = shifted({key: permuted(planted, layout, a)[key] for key in a}, 1, 0.01)
    result = match_by_activations(problem_of(family, b), options=ActivationOptions(mix=mix))
    assert planted.compose(result.permutation, layout).count_moved() == 0


@pytest.mark.parametrize("family", ["mlp", "resnet-basic"])
def test_it_is_at_least_as_good_as_either_alone(family: str) -> None:
    problem = problem_of(family, shifted(states(family), 7, 0.6))
    layout, mix = problem.layout, 0.5
    norms = norms_of(layout, problem.a), norms_of(layout, problem.b)
    beside = forms_beside(layout, pair_grams(problem, ActivationOptions()), mix, *norms)

    def worth(permutation: Permutation) -> float:
        return problem.objective(permutation) + worth_beside(layout, beside, permutation)

    found = match_by_activations(problem, options=ActivationOptions(mix=mix)).permutation
    alone = match_by_activations(problem).permutation, match_by_weights(problem).permutation
    assert all(worth(found) >= worth(other) - 1e-9 for other in alone)
    assert not any(found.equals(other) for other in alone) or family == "mlp"


def test_many_models_are_matched_by_both() -> None:
    a = states("resnet-basic")
    layout = layout_of("resnet-basic", a)
    planted = [Permutation.random(layout, seed) for seed in (3, 4)]
    others = [shifted({key: permuted(p, layout, a)[key] for key in a}, 9, 0.01) for p in planted]
    models = Models.of(layout, (a, *others))

    def pair(i: int, j: int) -> ActivationProblem:
        one, two = models.states[i], models.states[j]
        return ActivationProblem(layout, one, two, both("resnet-basic", dict(one), dict(two), images()))

    result = match_many_by_activations(models, pair, by=ActivationOptions(mix=0.5))
    for plan, found in zip(planted, result.permutations[1:], strict=True):
        assert plan.compose(found, layout).count_moved() == 0


def test_assignments_are_counted_over_all_descents() -> None:
    problem = problem_of("mlp", shifted(states("mlp"), 7, 0.6))
    layout = problem.layout
    identity = Permutation.identity(layout)
    one = best_by_both(problem, {}, [identity])
    assert one.solves >= len(layout.moving())
    assert best_by_both(problem, {}, [identity, identity]).solves == 2 * one.solves


def test_activations_alone_order_the_blocks_that_they_speak_of() -> None:
    a = states("mlp")
    layout = layout_of("mlp", a)
    planted = Permutation.random(layout, 5)
    problem = problem_of("mlp", dict(permuted(planted, layout, a)))
    norms = norms_of(layout, problem.a), norms_of(layout, problem.b)
    beside = forms_beside(layout, pair_grams(problem, ActivationOptions()), 0.5, *norms)
    assert planted.compose(by_forms(layout, beside), layout).count_moved() == 0
    silent = next(root for root in beside if root in layout.moving())
    found = by_forms(layout, {root: forms for root, forms in beside.items() if root != silent})
    assert torch.equal(found[silent], Permutation.identity(layout)[silent])
