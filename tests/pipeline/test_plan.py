"""The estimate of a dry run grows with what the run has to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.matching.resources import has_fast_solver
from rebasin_cli.pipeline.layouts import SpecChoice, bind_pair
from rebasin_cli.pipeline.plan import estimate, matching_seconds
from tests.benchmarks.cases import CASES
from tests.small import mlp_state, save


def plan_of(folder: Path, width: int, **more: int) -> tuple[float, int]:
    a, b = (save(folder / f"{width}.{seed}.safetensors", mlp_state(seed, (32, width, width, 16))) for seed in (0, 1))
    pair = bind_pair(open_checkpoint(a), open_checkpoint(b), SpecChoice())
    plan = estimate(pair, writes=pair.b.nbytes, targets={}, matched=True, passes=3, **more)
    assert plan.reads == 3 * (pair.a.nbytes + pair.b.nbytes)
    assert plan.writes == pair.b.nbytes
    return matching_seconds(pair.layout), plan.peak_memory_bytes


def test_wider_is_slower_and_larger(tmp_path: Path) -> None:
    small, wide = plan_of(tmp_path, 64), plan_of(tmp_path, 256)
    assert wide[0] > 4 * small[0]
    assert wide[1] > small[1]


def test_a_sweep_holds_the_networks(tmp_path: Path) -> None:
    assert plan_of(tmp_path, 64, examples=100, points=50)[1] > plan_of(tmp_path, 64)[1]


@pytest.mark.parametrize(("case", "measured"), [("vgg16", 0.38), ("resnet50", 0.95)])
def test_matching_takes_about_as_long_as_it_did(case: str, measured: float, tmp_path: Path) -> None:
    """Seconds of one core on planted weights, by `python -m tests.benchmarks --cases vgg16,resnet50`."""
    if not has_fast_solver():
        pytest.skip("measured with the compiled solver")
    assert measured / 4 < matching_seconds(CASES[case].layout(tmp_path)) < 4 * measured


def test_a_plan_counts_the_match_once(tmp_path: Path) -> None:
    a, b = (save(tmp_path / f"{seed}.safetensors", mlp_state(seed, (32, 2048, 2048, 16))) for seed in (0, 1))
    pair = bind_pair(open_checkpoint(a), open_checkpoint(b), SpecChoice())
    with_match, without = (
        estimate(pair, writes=0, targets={}, matched=matched, passes=3).seconds for matched in (True, False)
    )
    assert with_match - without == pytest.approx(matching_seconds(pair.layout), abs=0.011)
