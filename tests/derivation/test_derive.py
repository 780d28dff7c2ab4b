"""Specs derived from networks of the kinds that people train: the right group, proved by the real network."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch

from rebasin_cli.derivation.borrowing import borrowed
from rebasin_cli.derivation.derive import Derivation, derive
from rebasin_cli.derivation.passes import Network
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.problem import Problem, Resources, in_reals
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec.binding.layout import Layout
from tests.derivation import (
    networks,
    networks_attention,
    networks_choices,
    networks_images,
    networks_others,
    networks_unusual,
)

KINDS = (networks, networks_attention, networks_images, networks_others, networks_unusual, networks_choices)
NETWORKS = {name: made for kind in KINDS for name, made in kind.NETWORKS.items()}
GROUPS = {name: group for kind in KINDS for name, group in kind.GROUPS.items()}


LARGER = ("option a", "group norm over a concatenation")
"""Their groups are larger than the spec language can say: units of one dim in two places, or in another order."""


@lru_cache
def derived(name: str) -> Derivation:
    torch.manual_seed(0)
    module, inputs = NETWORKS[name]()
    return derive(module, inputs, name)


def group(layout: Layout) -> dict[str, int]:
    found: dict[str, int] = {}
    for dim in layout.moving():
        owner = layout.dims[dim].owner
        text = f"{layout.dims[dim].size}" + (f" in {layout.dims[owner].size}" if owner else "")
        found[text] = found.get(text, 0) + 1
    return found


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_group_of_a_network_is_found_and_proved(name: str) -> None:
    found = derived(name)
    assert found.proof.holds, found.proof.describe()
    assert found.complete
    assert bool(found.free) is (name in LARGER), found.free
    assert group(found.proof.layout) == GROUPS[name], found.text


@pytest.mark.parametrize("name", list(NETWORKS))
def test_most_parameters_stand_on_a_moving_axis(name: str) -> None:
    found = derived(name)
    layout = found.proof.layout
    module, inputs = NETWORKS[name]()
    with borrowed(module):
        shapes = Network(module, inputs).shapes
    sizes = {key: math.prod(shape) for key, shape in shapes.items() if key not in found.unread}
    moving = {key for dim in layout.moving() for key in layout.users[dim]}
    assert sum(size for name, size in sizes.items() if name in moving or "{e}" in name) >= 0.9 * sum(sizes.values())


@pytest.mark.parametrize("name", list(networks_choices.NETWORKS))
def test_all_tensors_of_networks_that_choose_are_read(name: str) -> None:
    assert not derived(name).unread


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_planted_permutation_is_recovered(name: str) -> None:
    """By weight matching with the derived spec: B is A with its units in another order, and the match undoes it."""
    layout = derived(name).proof.layout
    module, inputs = NETWORKS[name]()
    with borrowed(module):
        values = Network(module, inputs).generic(7)
        keys = {key: name for name, found in Network(module, inputs).keys.items() for key in found}
    a = {key: values[keys[key]] for key, tensor in layout.tensors.items() if key in keys}
    a |= {key: tensor for key, tensor in module.state_dict().items() if key not in a}
    planted = Permutation.random(layout, 3)
    b = dict(permuted(planted, layout, a))
    reals, (one, two) = in_reals(layout, a, b)
    result = match_by_weights(Problem(reals, one, two), Resources(seed=0), WeightsOptions())
    found = dict(permuted(result.permutation, layout, b))
    assert all(torch.equal(found[key], tensor) for key, tensor in a.items())
