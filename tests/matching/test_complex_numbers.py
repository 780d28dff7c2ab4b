"""Both parts of complex weights are matched and counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.objective import measure_distance
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.problem import Problem, Resources, in_reals
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout, shipped_spec
from rebasin_cli.spec.binding.bind import bind
from tests.small import save

SHAPES = {"fc1.weight": (8, 4), "fc1.bias": (8,), "fc2.weight": (3, 8), "fc2.bias": (3,)}


def layout() -> Layout:
    return bind(shipped_spec("mlp"), SHAPES)


def state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(shape, generator=generator, dtype=torch.complex64 if len(shape) > 1 else torch.float32)
        for key, shape in SHAPES.items()
    }


def test_a_permutation_of_imaginary_parts_is_found() -> None:
    bound, a = layout(), state(1)
    a["fc1.weight"].real.zero_()
    a["fc2.weight"].real.zero_()
    a["fc1.bias"].zero_()
    planted = Permutation.random(bound, 2)
    b = dict(permuted(planted, bound, a))
    paired, (one, two) = in_reals(bound, a, b)
    found = match_by_weights(Problem(paired, one, two), Resources(), WeightsOptions()).permutation
    assert all(torch.equal(tensor, a[key]) for key, tensor in dict(permuted(found, bound, b)).items())


def test_distances_count_both_parts() -> None:
    bound, a, b = layout(), state(1), state(2)
    paired, (one, two) = in_reals(bound, a, b)
    measured = measure_distance(paired, one, two, Permutation({}))
    assert measured.before**2 == pytest.approx(sum(float((a[k] - b[k]).abs().square().sum()) for k in a), rel=1e-6)


def test_real_checkpoints_are_left_as_they_are() -> None:
    bound, a = layout(), {key: torch.ones(shape) for key, shape in SHAPES.items()}
    assert in_reals(bound, a, a) == (bound, (a, a))


def test_checkpoints_tell_by_their_headers(tmp_path: Path) -> None:
    bound, a = layout(), state(1)
    save(tmp_path / "a.safetensors", a)
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        paired, (one,) = in_reals(bound, checkpoint)
        assert one["fc1.weight"].shape == (8, 4, 2)
        assert one["fc1.bias"].shape == (8,)
        assert paired.tensors["fc1.bias"] == bound.tensors["fc1.bias"]
