"""Both definitions of the barrier, on curves that can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from rebasin_cli.evaluation.barrier import Curve, barrier_above_line, barrier_above_mean

LAM = (0.0, 0.25, 0.5, 0.75, 1.0)


def curve(*loss: float) -> Curve:
    return Curve(LAM, loss, (0.0,) * len(loss))


def test_a_bump_between_equal_ends_is_the_same_under_both() -> None:
    bump = curve(1.0, 2.0, 4.0, 2.0, 1.0)
    assert bump.barrier == pytest.approx(3.0)
    assert bump.barrier_to_mean == pytest.approx(3.0)


def test_a_straight_slope_has_a_barrier_above_the_mean_only() -> None:
    slope = curve(1.0, 1.5, 2.0, 2.5, 3.0)
    assert slope.barrier == pytest.approx(0.0)
    assert slope.barrier_to_mean == pytest.approx(1.0)


def test_the_two_can_stand_at_different_points() -> None:
    skew = curve(0.0, 3.0, 2.0, 3.5, 4.0)
    assert skew.barrier == pytest.approx(2.0)  # at 0.25, above 1
    assert skew.barrier_to_mean == pytest.approx(2.0)  # at 1, above 2
    assert barrier_above_line((0.0, 0.9, 1.0), (0.0, 9.0, 8.0)) == pytest.approx(9.0 - 7.2)


def test_a_valley_has_no_barrier() -> None:
    valley = curve(1.0, 0.5, 0.2, 0.5, 1.0)
    assert valley.barrier == 0.0
    assert valley.barrier_to_mean == 0.0


@pytest.mark.parametrize("place", range(5))
def test_a_nan_is_never_passed_over(place: int) -> None:
    loss = [1.0, 2.0, 4.0, 2.0, 1.0]
    loss[place] = math.nan
    broken = curve(*loss)
    assert math.isnan(broken.barrier)
    assert math.isnan(broken.barrier_to_mean)
    assert broken.non_finite == (LAM[place],)


def test_an_infinite_loss_counts_between_the_ends_only() -> None:
    assert curve(1.0, 2.0, math.inf, 2.0, 1.0).barrier == math.inf
    assert barrier_above_mean((1.0, math.inf, 1.0)) == math.inf
    assert math.isnan(curve(1.0, 2.0, 3.0, 2.0, math.inf).barrier)
