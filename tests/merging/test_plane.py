"""The plane through three networks: where its points are, and what they are made of."""

from __future__ import annotations

from math import dist, hypot
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rebasin_cli.errors import ContentError
from rebasin_cli.merging.plane import InPlane, Plane
from tests.small import mlp_state


def layout_of(state: dict[str, torch.Tensor]) -> Any:
    """As much of a layout as mixing looks at: the section of every key."""
    return SimpleNamespace(tensors={key: SimpleNamespace(section="tensors") for key in state})


def test_the_corners_are_as_far_apart_as_the_networks() -> None:
    plane = Plane.of(a_to_b=5.0, a_to_aligned=3.0, b_to_aligned=4.0)
    assert hypot(*plane.b) == pytest.approx(5)
    assert dist(plane.b, (plane.aligned, 0)) == pytest.approx(4)
    assert plane.b == pytest.approx((3, 4))


@pytest.mark.parametrize("sides", [(4.0, 4.0, 0.0), (4.0, 0.0, 4.0), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0)])
def test_three_networks_on_a_line_are_refused(sides: tuple[float, float, float]) -> None:
    with pytest.raises(ContentError, match="on one line"):
        Plane.of(*sides)


def test_shares_of_corners_and_middles() -> None:
    plane = Plane.of(5.0, 3.0, 6.0)
    assert plane.shares(0, 0) == (0, 0)
    assert plane.shares(plane.aligned, 0) == (0, 1)
    assert plane.shares(*plane.b) == pytest.approx((1, 0))
    assert plane.shares(plane.b[0] / 2, plane.b[1] / 2) == pytest.approx((0.5, 0))


def test_the_grid_goes_around_the_triangle_by_the_margin() -> None:
    x, y = Plane.of(5.0, 3.0, 4.0).axes(steps=5, margin=0.5)
    assert (x[0], x[-1]) == pytest.approx((-2, 5))
    assert (y[0], y[-1]) == pytest.approx((-2, 6))
    assert (len(x), len(y)) == (5, 5)


def test_a_point_mixes_three_tensors() -> None:
    a, b, moved = mlp_state(1), mlp_state(2), mlp_state(3)
    mixed = InPlane(layout_of(a), a, b, moved, (0.25, -0.5))
    for key, tensor in mixed.items():
        torch.testing.assert_close(tensor, 1.25 * a[key] + 0.25 * b[key] - 0.5 * moved[key])


def test_the_origin_is_the_first_network_to_the_bit() -> None:
    a = mlp_state(1)
    at_a = InPlane(layout_of(a), a, mlp_state(2), mlp_state(3), (0.0, 0.0))
    assert all(torch.equal(at_a[key], tensor) for key, tensor in a.items())
