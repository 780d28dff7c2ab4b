"""Matching on a GPU finds what the CPU finds; where there is none, on a pretended one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.frank_wolfe import match_by_frank_wolfe
from rebasin_cli.matching.problem import Problem, Resources
from rebasin_cli.matching.resources import GPU_WORK, sweep_work
from rebasin_cli.pipeline.method_choice import MatchChoice, match_choice
from rebasin_cli.spec import bind, find_spec
from tests.networks import TINY, tiny_layout, tiny_state
from tests.pretended import device


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("name", list(TINY))
def test_a_gpu_finds_what_the_cpu_finds(name: str, memory: int | None, tmp_path: Path) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    on_cpu = match_by_weights(Problem(layout, a, b), Resources(memory=memory))
    with device() as operations:
        on_gpu = match_by_weights(Problem(layout, a, b), Resources(memory=memory, device="cuda"))
    assert operations.total() > 0
    assert on_gpu.permutation.equals(on_cpu.permutation)
    assert on_gpu.objective == pytest.approx(on_cpu.objective, rel=1e-10)


def test_frank_wolfe_on_a_gpu(tmp_path: Path) -> None:
    layout, a, b = tiny_layout("residual", tmp_path), tiny_state("residual", 1), tiny_state("residual", 2)
    with device() as operations:
        on_gpu = match_by_frank_wolfe(Problem(layout, a, b), Resources(device="cuda"))
    assert on_gpu.permutation.equals(match_by_frank_wolfe(Problem(layout, a, b)).permutation)
    assert operations.total() > 0


def test_small_networks_are_left_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def chain(*widths: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (before, after) in enumerate(pairwise(widths)):
            shapes |= {f"fc.{i}.weight": (after, before), f"fc.{i}.bias": (after,)}
        return shapes

    small, large = (bind(find_spec("mlp"), chain(784, n, n, 10)) for n in (512, 4096))
    assert sweep_work(small) == 512**2 * (784 + 512 + 512 + 10 + 2)
    assert sweep_work(small) < GPU_WORK < sweep_work(large)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert MatchChoice().device_for(small) == "cpu"
    assert MatchChoice().device_for(large) == "cuda"
    assert MatchChoice(device="cuda").device_for(small) == "cuda"
    assert match_choice("ste").device_for(small) == "cuda"  # the network runs there, too
    assert MatchChoice(device="cpu").device_for(large) == "cpu"
