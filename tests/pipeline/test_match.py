"""One way to run a match: bars, notes, threads and an early end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from rebasin_cli.pipeline import Advance, Progress
from rebasin_cli.pipeline.match import MatchRun, run_match
from rebasin_cli.pipeline.method_choice import MatchChoice


@dataclass(frozen=True)
class Result:
    notes: tuple[str, ...] = ("a note",)


class Bars(Progress):
    """Remembers which bars were opened and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    @contextmanager
    def phase(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        self.seen.append(f"open {title}")
        yield lambda amount: self.seen.append(f"{title} {amount}")
        self.seen.append(f"close {title}")


def test_one_bar_is_open_at_a_time() -> None:
    bars = Bars()

    def search(run: MatchRun) -> Result:
        run.advance(1)
        run.begin("second", 2, "steps")
        run.advance(2)
        return Result()

    run_match(MatchChoice(), bars, "first", search)
    assert bars.seen == ["open first", "first 1", "close first", "open second", "second 2", "close second"]
    assert bars.warnings == ["a note"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_search_has_the_threads_that_were_asked_for(threads: int) -> None:
    seen = []

    def search(run: MatchRun) -> Result:
        seen.append((run.threads, run.executor is not None, torch.get_num_threads()))
        return Result()

    before = torch.get_num_threads()
    try:
        run_match(MatchChoice(threads=threads), Progress(), "matching", search)
    finally:
        torch.set_num_threads(before)
    assert seen == [(threads, threads > 1, 1)]
