"""Several starts: the best is kept, what was tried is told, and a match can be ended early."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.portfolio import best_of, descents
from rebasin_cli.matching.problem import Problem, Resources, Stop, StopMatching
from rebasin_cli.permutation.values import Permutation
from tests.networks import TINY, tiny_layout, tiny_state


@pytest.mark.parametrize("name", list(TINY))
def test_the_best_of_several_starts_is_kept(name: str, tmp_path: Path) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    result = best_of(descents(Problem(layout, a, b), 8, 3))
    assert len(result.trials) == 8
    assert len({trial.name for trial in result.trials}) == 8
    assert result.objective[-1] == max(trial.objective for trial in result.trials)
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-10)
    assert result.trials[0].objective == match_by_weights(Problem(layout, a, b)).objective[-1]


def test_more_starts_reach_more(tmp_path: Path) -> None:
    layout = tiny_layout("residual", tmp_path)
    gains = []
    for seed in range(10):
        a, b = tiny_state("residual", seed), tiny_state("residual", seed + 100)
        one, many = (best_of(descents(Problem(layout, a, b), n)).objective[-1] for n in (1, 12))
        assert many >= one
        gains.append(many - one)
    assert max(gains) > 0


def test_what_was_asked_for_comes_first(tmp_path: Path) -> None:
    layout, a, b = tiny_layout("chain", tmp_path), tiny_state("chain", 1), tiny_state("chain", 2)
    attempts = descents(Problem(layout, a, b), 5, 7, options=WeightsOptions(start="identity", order="random"))
    assert [attempt.name for attempt in attempts] == [
        "identity, random order, seed 7", "anchored, forward order", "identity, forward order",
        "random, forward order, seed 7", "identity, random order, seed 8",
    ]  # fmt: skip


def test_one_start_is_the_plain_match(tmp_path: Path) -> None:
    layout, a, b = tiny_layout("chain", tmp_path), tiny_state("chain", 1), tiny_state("chain", 2)
    result = best_of(descents(Problem(layout, a, b), 1))
    assert result.trials == ()
    assert result.objective == match_by_weights(Problem(layout, a, b)).objective


@pytest.mark.parametrize("why", ["time", "interrupted"])
@pytest.mark.parametrize("after", [1, 5, 9])
def test_a_match_told_to_stop_returns_what_it_has(why: Stop, after: int, tmp_path: Path) -> None:
    layout, a, b = tiny_layout("residual", tmp_path), tiny_state("residual", 1), tiny_state("residual", 2)
    steps = 0

    def on_step(sweep: int, step: int, of: int, objective: float) -> None:
        nonlocal steps
        steps += 1
        if steps >= after:
            raise StopMatching(why)

    result = best_of(descents(Problem(layout, a, b), 50), Resources(on_step=on_step))
    assert steps == after
    assert result.stop == why
    assert len(result.trials) < 50
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-10)
    assert result.objective[-1] > result.objective[0]


def test_every_random_start_and_order_has_a_seed_of_its_own(tmp_path: Path) -> None:
    """Before a sweep a random start is where it begins, and after one a random order has led elsewhere."""
    layout = tiny_layout("residual", tmp_path)
    problem = Problem(layout, tiny_state("residual", 1), tiny_state("residual", 2))
    begun = [a.run(Resources()) for a in descents(problem, 9, 5, WeightsOptions(max_sweeps=0)) if "random, f" in a.name]
    assert len(begun) == 3
    assert all(r.permutation.equals(Permutation.random(layout, 5 + i)) for i, r in enumerate(begun))
    swept = [a.run(Resources()) for a in descents(problem, 9, 5, WeightsOptions(max_sweeps=1)) if "random o" in a.name]
    assert [result.seed for result in swept] == [5, 6, 7, 8]
    assert len({result.objective[-1] for result in swept}) > 1
