"""Lengths of time, and the wish to stop."""

from __future__ import annotations

import os
import signal
import time

import pytest

from rebasin_cli.errors import UsageError
from rebasin_cli.matching.problem import StopMatching
from rebasin_cli.pipeline.match import stopping
from rebasin_cli.pipeline.quantities import parse_duration


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("0.5", 0.5)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "10 minutes", "-5", "0", "5d", "m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="--time-budget"):
        parse_duration(text)


def test_the_budget_ends() -> None:
    with stopping(0.05, save=False) as check:
        check()
        time.sleep(0.06)
        with pytest.raises(StopMatching) as wish:
            check()
    assert wish.value.stop == "time"


def test_only_the_second_interrupt_ends_the_program() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopping(None, save=True) as check:
        check()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(StopMatching) as wish:
            check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert wish.value.stop == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before


def test_without_save_an_interrupt_is_one() -> None:
    with stopping(1000, save=False), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
