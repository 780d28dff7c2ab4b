"""What networks are worth: losses against those worked out another way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rebasin_cli.evaluation.barrier import Curve
from rebasin_cli.evaluation.data import Dataset, load_data
from rebasin_cli.evaluation.evaluate import Judging, as_curve, evaluate
from rebasin_cli.evaluation.networks.network import Network
from rebasin_cli.merging.interpolation import interpolated
from rebasin_cli.merging.options import lambda_grid
from tests.evaluation.building import images, layout_of, network_for, randomise
from tests.pretended import device

DATA = Path(__file__).parents[1] / "data"


def small() -> tuple[nn.Module, dict[str, Tensor], Dataset]:
    module = randomise(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)))
    generator = torch.Generator().manual_seed(3)
    inputs = torch.rand(50, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(4, (50,), generator=generator)
    return module, dict(module.state_dict()), Dataset(inputs, targets, "random")


def test_loss_is_the_mean_in_nats_and_accuracy_a_fraction() -> None:
    module, state, data = small()
    scores = evaluate(network_for("mlp", state), state, data)
    loss, accuracy = scores.loss, scores.accuracy
    with torch.no_grad():
        probabilities = module(data.inputs).softmax(1)
    picked = probabilities[torch.arange(50), data.targets]
    assert loss == pytest.approx(-picked.log().mean().item(), rel=1e-12)
    assert accuracy == (probabilities.argmax(1) == data.targets).double().mean().item()
    assert 0 < accuracy < 1


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1000])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    _, state, data = small()
    network = network_for("mlp", state)
    whole = evaluate(network, state, data)
    found = evaluate(network, state, data, Judging(batch_size=batch_size))
    assert found.loss == pytest.approx(whole.loss, rel=1e-12)
    assert found.accuracy == whole.accuracy


def test_uniform_logits_have_a_loss_of_log_classes() -> None:
    _, state, data = small()
    zeros = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    assert evaluate(network_for("mlp", state), zeros, data).loss == pytest.approx(math.log(4), rel=1e-12)


def test_sums_are_in_float64_for_float32_networks() -> None:
    """A million equal losses: a float32 sum would be off in its fourth digit or so."""
    state = {"0.weight": torch.zeros(4, 1)}
    count = 1_000_000
    data = Dataset(torch.zeros(count, 1), torch.zeros(count, dtype=torch.int64), "zeros")
    scores = evaluate(network_for("mlp", state), state, data, Judging(batch_size=1000))
    assert scores.loss == pytest.approx(math.log(4), rel=1e-12)
    assert scores.accuracy == 1.0


def curve_of(network: Network, states: Callable[[float], Mapping[str, Tensor]], points: int, data: Dataset) -> Curve:
    """What is measured at points at equal distances from 0 to 1."""
    grid = lambda_grid(points)
    return as_curve(grid, [evaluate(network, states(lam), data) for lam in grid])


def test_the_points_of_a_curve_are_in_order() -> None:
    _, state, data = small()
    network = network_for("mlp", state)
    curve = curve_of(network, lambda lam: {key: tensor * (1 - lam) for key, tensor in state.items()}, 5, data)
    assert curve.lam == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert curve.loss[-1] == pytest.approx(math.log(4))
    assert curve.loss[0] == evaluate(network, state, data).loss
    assert len(curve.accuracy) == 5


def test_each_tensor_of_a_lazy_state_is_read_once() -> None:
    _, state, data = small()
    reads: list[str] = []

    class Lazy(dict[str, Tensor]):
        def __getitem__(self, key: str) -> Tensor:
            reads.append(key)
            return super().__getitem__(key)

    evaluate(network_for("mlp", state), Lazy(state), data, Judging(batch_size=3))
    assert sorted(reads) == sorted(state)


def test_a_loss_that_is_not_finite_is_reported() -> None:
    _, state, data = small()
    network = network_for("mlp", state)

    def states(lam: float) -> Mapping[str, Tensor]:
        broken = math.nan if lam == 0.5 else 0.0
        return state | {"2.bias": state["2.bias"] + broken}

    curve = curve_of(network, states, 3, data)
    assert math.isnan(curve.loss[1])
    assert curve.accuracy[1] == 0.0
    assert math.isfinite(curve.loss[0])
    assert curve.non_finite == (0.5,)
    assert math.isnan(curve.barrier)


def test_the_shipped_pair_has_a_barrier() -> None:
    """The README of tests/data has these figures."""
    a, b = (load_file(DATA / f"digits_mlp_{name}.safetensors") for name in "ab")
    layout, network = layout_of("mlp", a), network_for("mlp", a)
    data = load_data(DATA / "digits.npz")
    naive = curve_of(network, lambda lam: interpolated(layout, a, b, lam), 25, data)
    assert naive.barrier == pytest.approx(1.023, abs=0.005)
    assert (naive.accuracy[0], naive.accuracy[-1]) == pytest.approx((0.962, 0.968))
    assert (naive.loss[0], naive.loss[-1]) == pytest.approx((0.106, 0.102), abs=1e-3)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_a_gpu_gives_the_losses_of_the_cpu(kind: str) -> None:
    if kind == "mlp":
        _, state, data = small()
        network = network_for("mlp", state)
    else:
        shapes = {"features.0.weight": (64, 3, 3, 3), "features.2.weight": (64, 64, 3, 3), "classifier.weight": (4, 64)}
        generator = torch.Generator().manual_seed(0)
        state = {key: torch.randn(shape, generator=generator) / shape[1] ** 0.5 for key, shape in shapes.items()}
        network = network_for("vgg", state)
        data = Dataset(images(16, count=20).float(), torch.arange(20) % 4, "random")
    on_cpu = evaluate(network, state, data)
    with device() as operations:
        on_gpu = evaluate(network, state, data, Judging(device="cuda"))
    assert operations.total() > 0
    assert (on_gpu.loss, on_gpu.accuracy) == pytest.approx((on_cpu.loss, on_cpu.accuracy), rel=1e-5)
