"""Ways to combine besides the straight line: the arc, and a λ of their own for some tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rebasin_cli.merging.interpolation import interpolate_tensor, interpolated
from rebasin_cli.merging.options import Blend
from tests.networks import TINY, tiny_layout, tiny_state


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("lam", [0.1, 0.25, 0.5, 0.9])
def test_the_arc_keeps_length_and_divides_the_angle(lam: float) -> None:
    a, b = tensor(5, 7), tensor(5, 7, seed=1)
    b = b * (a.norm() / b.norm())
    between = interpolate_tensor(a, b, lam, how="slerp")
    assert float(between.norm()) == pytest.approx(float(a.norm()), rel=1e-9)

    def angle(x: Tensor, y: Tensor) -> float:
        return float(((x * y).sum() / (x.norm() * y.norm())).acos())

    assert angle(a, between) == pytest.approx(lam * angle(a, b), rel=1e-9)
    assert angle(between, b) == pytest.approx((1 - lam) * angle(a, b), rel=1e-9)
    assert float(interpolate_tensor(a, b, lam).norm()) < float(a.norm())


def test_the_ends_of_the_arc_are_the_ends() -> None:
    a, b = tensor(4, 4), tensor(4, 4, seed=1)
    assert torch.equal(interpolate_tensor(a, b, 0.0, how="slerp"), a)
    assert torch.equal(interpolate_tensor(a, b, 1.0, how="slerp"), b)


@pytest.mark.parametrize("b", [3 * torch.ones(6), torch.ones(6), -torch.ones(6), torch.zeros(6)])
def test_where_there_is_no_arc_the_line_is_taken(b: Tensor) -> None:
    a = torch.ones(6)
    assert torch.equal(interpolate_tensor(a, b, 0.25, how="slerp"), interpolate_tensor(a, b, 0.25))


def test_the_arc_of_half_precision_is_rounded_once() -> None:
    a, b = tensor(50).to(torch.bfloat16), tensor(50, seed=1).to(torch.bfloat16)
    found = interpolate_tensor(a, b, 0.5, how="slerp")
    assert found.dtype == torch.bfloat16
    exact = interpolate_tensor(a.double(), b.double(), 0.5, how="slerp")
    assert torch.allclose(found.double(), exact, rtol=2**-8)


def test_the_last_pattern_that_matches_counts(tmp_path: Path) -> None:
    layout, a, b = tiny_layout("chain", tmp_path), tiny_state("chain", 0), tiny_state("chain", 1)
    blend = Blend(weights=(("*.weight", 0.25), ("2.*", 1.0)))
    state = interpolated(layout, a, b, 0.5, blend)
    expected = {"0.weight": 0.25, "0.bias": 0.5, "2.weight": 1.0, "2.bias": 1.0, "4.weight": 0.25, "4.bias": 0.5}
    assert set(expected) == set(TINY["chain"].shapes)
    for key, lam in expected.items():
        assert torch.equal(state[key], interpolate_tensor(a[key], b[key], lam)), key
    zero = interpolated(layout, a, b, 0.5, Blend(weights=(("0.*", 0.0),)))
    assert torch.equal(zero["0.weight"], a["0.weight"])
