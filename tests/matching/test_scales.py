"""Scales of units: the balanced form, the exact scales of a match, and planted elements of the whole group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.objective import measure_distance
from rebasin_cli.matching.problem import Problem, Resources
from rebasin_cli.matching.scales import balance, balanced, in_balance, with_scales
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout, Request, bind
from rebasin_cli.spec.language.loading import parse_spec
from tests.signed_networks import SIGNED, signed_forward, signed_state

SCALED = {
    "stream": SIGNED["stream"].text.replace("tensors:", "scales:\n  - v\n  - m\ntensors:"),
    "experts": SIGNED["experts"].text.replace("tensors:", "scales:\n  - m\ntensors:"),
}
State = Mapping[str, Tensor]


def scaled_layout(name: str) -> Layout:
    return bind(parse_spec(SCALED[name], f"{name}.yaml"), SIGNED[name].shapes, Request(signs=True, scales=True))


def matched(layout: Layout, a: State, b: State, seed: int = 0) -> Permutation:
    one, two = (balanced(layout, state, balance(layout, state)) for state in (a, b))
    found = match_by_weights(Problem(layout.without_scales(), one, two), Resources(seed=seed)).permutation
    return with_scales(layout, a, b, found)


@pytest.mark.parametrize("name", list(SCALED))
def test_random_elements_and_inverses_keep_the_function(name: str) -> None:
    layout, state = scaled_layout(name), signed_state(name, 1)
    first, second = (Permutation.random(layout, seed) for seed in (1, 2))
    assert first.has_scales
    moved = dict(permuted(first, layout, state))
    torch.testing.assert_close(signed_forward(name, moved), signed_forward(name, state), rtol=1e-9, atol=1e-9)
    both = dict(permuted(second, layout, moved))
    torch.testing.assert_close(dict(permuted(first.compose(second, layout), layout, state)), both)
    torch.testing.assert_close(dict(permuted(first.inverse(layout), layout, moved)), dict(state))


@pytest.mark.parametrize("name", list(SCALED))
def test_the_balanced_form_is_one_for_all_scales(name: str) -> None:
    layout, state = scaled_layout(name), signed_state(name, 1)
    scaled = dict(permuted(replace(Permutation.random(layout, 3), indices={}), layout, state))
    one, two = (dict(balanced(layout, each, balance(layout, each))) for each in (state, scaled))
    torch.testing.assert_close(one, two)
    lengths = [sum(float(t.square().sum()) for t in each.values()) for each in (one, state, scaled)]
    assert lengths[0] == min(lengths)


@pytest.mark.parametrize("name", list(SCALED))
def test_a_match_keeps_the_function_and_is_nearest(name: str) -> None:
    layout, a, b = scaled_layout(name), signed_state(name, 1), signed_state(name, 2)
    found = matched(layout, a, b)
    moved = dict(permuted(found, layout, b))
    torch.testing.assert_close(signed_forward(name, moved), signed_forward(name, b), rtol=1e-9, atol=1e-9)
    one, two, between = in_balance(layout, found, a, b)
    reached = measure_distance(layout, one, two, between).after
    assert reached < measure_distance(layout, one, two, between.without_scales()).after
    for dim, scale in between.scales.items():
        for factor in (0.5, 0.99, 1.01, 2.0):
            other = scale.clone()
            other.view(-1)[1] *= factor
            changed = replace(between, scales={**between.scales, dim: other})
            assert measure_distance(layout, one, two, changed).after > reached


@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize("name", list(SCALED))
def test_a_planted_element_is_undone(name: str, noise: float) -> None:
    layout, a = scaled_layout(name), signed_state(name, 1)
    planted = Permutation.random(layout, 4)
    generator = torch.Generator().manual_seed(0)
    b = {
        key: tensor + noise * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for key, tensor in permuted(planted, layout, a).items()
    }
    found = min((matched(layout, a, b, seed) for seed in range(3)), key=lambda p: _apart(layout, a, b, p))
    assert found.without_scales().equals(planted.inverse(layout).without_scales())
    assert _apart(layout, a, b, found) <= max(1e-12, 10 * noise)


def _apart(layout: Layout, a: State, b: State, permutation: Permutation) -> float:
    """The largest difference of an element."""
    moved = permuted(permutation, layout, b)
    return max(float((moved[key] - tensor).abs().max()) for key, tensor in a.items())


def test_equal_networks_are_left_as_they_are() -> None:
    layout, state = scaled_layout("stream"), signed_state("stream", 1)
    assert not with_scales(layout, state, state, Permutation.identity(layout)).has_scales


def test_a_dead_unit_keeps_its_scale() -> None:
    layout, a = scaled_layout("experts"), dict(signed_state("experts", 1))
    b = dict(signed_state("experts", 2))
    b["experts.1.up"] = b["experts.1.up"].clone()
    b["experts.1.up"][2] = 0
    found = with_scales(layout, a, b, Permutation.identity(layout))
    assert found.scales["m"].isfinite().all()
    assert found.scales["m"].min() > 0
