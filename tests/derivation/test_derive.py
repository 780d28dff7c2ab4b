"""Specs derived from networks of the kinds that people train: the right group, proved by the real network."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch

from rebasin_cli.derivation.derive import Derivation, derive
from rebasin_cli.derivation.passes import Network
from rebasin_cli.evaluation.running import in_dtype
from rebasin_cli.spec.binding.layout import Layout
from tests.derivation.networks import NETWORKS

# The dims of each, by size; a dim within another has one permutation for each of its units.
GROUPS = {
    "residual mlp": {"12": 1},
    "chain": {"2": 1, "3 in 2": 1, "4 in 2": 1, "10": 1},
    "option a": {"4": 1, "2": 2, "8": 1},
    "group norm over a concatenation": {"2": 3, "3 in 2": 1, "10": 1},
    "experts": {"10": 1, "4": 1, "7 in 4": 1},
    "chosen experts": {"10": 1, "4": 1, "7 in 4": 1},
    "u-net": {"6": 2, "8": 1, "5": 1},
    "nanogpt": {"12": 1, "3": 2, "4 in 3": 4, "20": 2},
    "encoder": {"12": 1, "3": 2, "4 in 3": 4, "14": 2},
    "wavenet": {"8": 1, "6": 2},
    "recurrent": {"7": 1, "5": 4},
    "squeeze and excite": {"8": 1, "4": 1},
    "pixel shuffle": {"6": 1, "5": 1},
}


@lru_cache
def derived(name: str) -> Derivation:
    torch.manual_seed(0)
    module, inputs = NETWORKS[name]()
    return derive(module, in_dtype(inputs, torch.float64), name)


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
    assert group(found.proof.layout) == GROUPS[name], found.text


@pytest.mark.parametrize("name", list(NETWORKS))
def test_most_parameters_stand_on_a_moving_axis(name: str) -> None:
    layout = derived(name).proof.layout
    sizes = {name: math.prod(shape) for name, shape in Network(*NETWORKS[name]()).shapes.items()}
    moving = {key for dim in layout.moving() for key in layout.users[dim]}
    assert sum(size for name, size in sizes.items() if name in moving or "{e}" in name) >= 0.9 * sum(sizes.values())
