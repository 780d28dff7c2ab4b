"""`--device cuda`, on a pretended GPU where there is none: B, which is A shuffled, becomes A."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Rebasin
from tests.pretended import device

METHODS = {
    "weights": (),
    "frank-wolfe": ("--method", "frank-wolfe"),
    "sinkhorn": ("--method", "sinkhorn"),
    "sinkhorn by the loss": ("--method", "sinkhorn", "--objective", "midpoint", "--data", "data.npz"),
    "activations": ("--method", "activations", "--data", "data.npz"),
    "ste": ("--method", "ste", "--epochs", "2", "--data", "data.npz"),
    "restarts": ("--quality", "high"),
}


@pytest.mark.parametrize("method", list(METHODS))
def test_alignment_on_a_gpu(method: str, rebasin: Rebasin, pair: Path) -> None:
    with device() as operations:
        done = rebasin("align", "a.safetensors", "b.safetensors", *METHODS[method], "--device", "cuda")
    assert done.code == 0, done.err
    assert done.document["device"] == "cuda"
    assert operations.total() > 0
    a, aligned = (load_file(pair / name) for name in ("a.safetensors", "b.aligned.safetensors"))
    for key, tensor in a.items():
        assert torch.equal(tensor, aligned[key]), key


@pytest.mark.parametrize("repair", [(), ("--repair", "repair", "--fit-data", "data.npz")], ids=["", "repair"])
def test_losses_on_a_gpu(repair: tuple[str, ...], rebasin: Rebasin, pair: Path) -> None:
    words = ("interpolate", "a.safetensors", "b.safetensors", "--data", "data.npz", "--steps", "3", *repair)
    on_cpu = rebasin(*words)
    with device() as operations:
        on_gpu = rebasin(*words, "--device", "cuda")
    assert (on_cpu.code, on_gpu.code) == (0, 0), on_gpu.err
    assert operations.total() > 0
    for name, curve in on_cpu.document["barrier"].items():
        if isinstance(curve, dict) and "loss" in curve:
            assert on_gpu.document["barrier"][name]["loss"] == pytest.approx(curve["loss"], rel=1e-5)


def test_a_merge_on_a_gpu(rebasin: Rebasin, pair: Path) -> None:
    words = ("merge", "a.safetensors", "b.safetensors", "--data", "data.npz")
    with device() as operations:
        done = rebasin(*words, "-o", "m.safetensors", "--device", "cuda")
    assert done.code == 0, done.err
    assert operations.total() > 0
    a, merged = load_file(pair / "a.safetensors"), load_file(pair / "m.safetensors")
    for key, tensor in a.items():
        torch.testing.assert_close(merged[key], tensor)
