"""Mixing finite values into what is not finite: counted, refused, and kept only if asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rebasin_cli.merging.interpolation import interpolate_tensor
from tests.benchmarks.train_resnet import ResNet
from tests.cli.conftest import Rebasin
from tests.small import mlp_state, run, save

LARGE = 3e38  # near the largest float32
MERGE = ("merge", "half.safetensors", "b.safetensors", "-o", "m.safetensors")
POINT = ("interpolate", "half.safetensors", "b.safetensors", "--no-align", "--at", 0.9, "-o", "m.safetensors")
POINTS = ("interpolate", "half.safetensors", "b.safetensors", "--no-align", "--steps", 3, "-o", "points")


@pytest.fixture
def wide(pair: Path) -> Path:
    """A in float16, B in float32 with values that do not fit into it."""
    save(pair / "half.safetensors", {key: tensor.half() for key, tensor in mlp_state(0).items()})
    b = mlp_state(1)
    b["fc.2.bias"][3:5] = 1e6
    save(pair / "b.safetensors", b)
    return pair


@pytest.mark.parametrize("command", [MERGE, POINT, POINTS])
def test_what_overflows_is_refused(rebasin: Rebasin, wide: Path, command: tuple[object, ...]) -> None:
    done = rebasin(*command)
    assert done.code == 3
    assert "1 tensor of the result has values that are not finite: fc.2.bias (2 of 16, F16)" in done.err
    assert not Path("m.safetensors").exists()
    assert "--allow-non-finite" in done.err
    kept = rebasin(*command, "--allow-non-finite", "-f")
    assert kept.code == 0
    assert any("not finite: fc.2.bias (2 of 16, F16)" in text for text in kept.document["warnings"])


def test_a_converted_first_checkpoint_helps(rebasin: Rebasin, wide: Path) -> None:
    save(wide / "half.safetensors", {k: t.float() for k, t in load_file("half.safetensors").items()})
    assert rebasin(*MERGE).code == 0
    assert all(bool(tensor.isfinite().all()) for tensor in load_file("m.safetensors").values())


def test_a_pipe_ends_at_the_first_value(wide: Path) -> None:
    done = run(*(*POINT[:-1], "-"), cwd=wide)
    assert done.returncode == 3
    assert b"not finite: fc.2.bias" in done.stderr


@pytest.mark.parametrize("weights", ["1,1", "1e308,1e308", "1e-320,1e-320", "1e308,1e-320"])
def test_weights_of_any_finite_size(rebasin: Rebasin, pair: Path, weights: str) -> None:
    done = rebasin("merge", "a.safetensors", "b.safetensors", "-o", "m.safetensors", "--weights", weights)
    assert done.code == 0, done.err
    one, two = done.document["merge"]["weights"]
    assert one + two == pytest.approx(1)
    assert (one == two) == (weights != "1e308,1e-320")


@pytest.mark.parametrize("weights", ["nan,1", "inf,1", "0,1", "-1,1", "1e400,1"])
def test_weights_that_are_none(rebasin: Rebasin, pair: Path, weights: str) -> None:
    done = rebasin("merge", "a.safetensors", "b.safetensors", "-o", "m.safetensors", f"--weights={weights}")
    assert done.code == 2
    assert "is not a finite number above zero" in done.err


def test_the_largest_numbers_have_a_mean(rebasin: Rebasin, pair: Path) -> None:
    a, b = mlp_state(0), mlp_state(0)
    a["fc.2.bias"][0], b["fc.2.bias"][0] = LARGE, -LARGE
    save(pair / "x.safetensors", a)
    save(pair / "y.safetensors", b)
    assert rebasin("merge", "x.safetensors", "y.safetensors", "-o", "m.safetensors").code == 0
    assert float(load_file("m.safetensors")["fc.2.bias"][0]) == pytest.approx(0, abs=LARGE * 1e-6)


@pytest.mark.parametrize("how", ["lerp", "slerp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mix_of_the_largest_numbers(how: str, dtype: torch.dtype) -> None:
    top = torch.finfo(dtype).max * 0.99
    a, b = torch.tensor([top, 1.0], dtype=dtype), torch.tensor([-top, 1.0], dtype=dtype)
    mixed = interpolate_tensor(a, b, 0.25, how=how)  # type: ignore[arg-type]
    if how == "lerp":
        torch.testing.assert_close(mixed, torch.tensor([0.5 * top, 1.0], dtype=dtype))
    assert bool(mixed.isfinite().all())


@pytest.mark.parametrize("size", [1e-200, 1e300])
def test_an_arc_does_not_depend_on_the_size_of_numbers(size: float) -> None:
    a, b = torch.tensor([3.0, 1.0], dtype=torch.float64), torch.tensor([-2.0, 1.0], dtype=torch.float64)
    mixed = interpolate_tensor(size * a, size * b, 0.25, how="slerp")
    torch.testing.assert_close(mixed / size, interpolate_tensor(a, b, 0.25, how="slerp"))


def test_complex_numbers_near_the_largest_have_a_mix() -> None:
    a = torch.tensor([complex(LARGE, 1.0)])
    assert complex(interpolate_tensor(a, -a, 0.5)) == 0


def test_statistics_that_overflow_are_refused(rebasin: Rebasin, pair: Path) -> None:
    """Of inputs of thousands the variance does not fit into float16."""
    state = {key: tensor.half().contiguous() for key, tensor in ResNet(4, 1, 3).state_dict().items()}
    state = {k: t.long() if k.endswith("tracked") else t for k, t in state.items()}
    save(pair / "a.safetensors", state)
    inputs = 2000 * np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)
    np.savez("data.npz", inputs=inputs, targets=np.arange(24) % 10)
    command = ("repair", "a.safetensors", "--data", "data.npz", "-o", "r.safetensors")
    done = rebasin(*command)
    assert done.code == 3
    assert "running_var (4 of 4, F16)" in done.err
    assert not Path("r.safetensors").exists()
    assert (
        rebasin("repair", "a.safetensors", "--data", "data.npz", "-o", "r.safetensors", "--allow-non-finite").code == 0
    )
