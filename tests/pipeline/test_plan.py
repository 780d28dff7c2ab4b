"""The estimate of a dry run grows with what the run has to do."""

from __future__ import annotations

from pathlib import Path

from rebasin_cli.checkpoints import open_checkpoint
from rebasin_cli.pipeline.binding import bind_pair
from rebasin_cli.pipeline.choices import SpecChoice
from rebasin_cli.pipeline.plan import estimate, matching_seconds
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
