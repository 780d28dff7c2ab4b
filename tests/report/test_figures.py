"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.report.figures import (
    count_text,
    finite_range,
    loss_text,
    measure_text,
    percent_text,
    seconds_text,
    tick_text,
    ticks,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "4 ms"), (0.0999, "0.1 s"), (1.25, "1.2 s"), (59, "59 s"), (59.7, "1 min 0 s"), (75, "1 min 15 s"),
     (3600, "1 h 0 min"), (13620, "3 h 47 min")],
)  # fmt: skip
def test_seconds(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("loss", "text"),
    [(1.3009, "1.301"), (0.0099, "0.0099"), (0.00995, "0.010"), (0.0000123, "1.2e-05"), (0, "0.000"), (-1e-9, "-0.000"),
     (math.nan, "not finite"), (math.inf, "not finite"), (None, "–"), (1e6, "1e+06")],
)  # fmt: skip
def test_loss(loss: float | None, text: str) -> None:
    assert loss_text(loss) == text


def test_the_others() -> None:
    assert percent_text(0.99609375) == "99.6 %"
    assert percent_text(None) == percent_text(math.nan) == "–"
    assert measure_text(33.12345) == "33.12"
    assert measure_text(31019.4) == "31,019"
    assert count_text(1, "tensor") == "1 tensor"
    assert count_text(12000, "tensor") == "12,000 tensors"


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 8))
def test_ticks_are_round_and_within(low: float, span: float, wanted: int) -> None:
    high = low + span
    marks = ticks(low, high, wanted)
    slack = 1e-6 * max(abs(low), abs(high), span)
    assert all(low - slack <= mark <= high + slack for mark in marks)
    assert 1 <= len(marks) <= wanted + 2
    if len(marks) > 1:
        step = marks[1] - marks[0]
        digit = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(digit - one) for one in (1, 2, 5, 10)) < 0.02 or span < 1e-4 * abs(low)


def test_tick_text_has_the_digits_of_its_step() -> None:
    assert [tick_text(x, 0.5) for x in (0.5, 1.0)] == ["0.5", "1.0"]
    assert tick_text(0.125, 0.025) == "0.12"
    assert tick_text(20, 10) == "20"


def test_finite_range() -> None:
    assert finite_range([[1.0, math.nan], [3.0, math.inf]]) == (1.0, 3.0)
    assert finite_range([[math.nan]]) is None
    low, high = finite_range([[2.0, 2.0]]) or (0, 0)
    assert low < 2 < high
