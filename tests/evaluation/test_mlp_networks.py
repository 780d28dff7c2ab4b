"""Multilayer perceptrons: depth, naming, nonlinearity, normalisation."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.given import GivenNetwork
from rebasin_cli.evaluation.networks.module_network import user_network
from rebasin_cli.evaluation.networks.registry import FAMILIES, build_network
from tests.evaluation.building import Info, assert_same_function, infos_of, layout_of, network_for, randomise

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
}
SIZES = (6, 9, 8, 7, 4)


def vectors(count: int = 5) -> Tensor:
    return torch.rand(count, SIZES[0], generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def sequential(activation: type[nn.Module] = nn.ReLU, norm: type[nn.Module] | None = None) -> nn.Sequential:
    """Linear, norm, nonlinearity, …: numbered with gaps by Sequential itself."""
    layers: list[nn.Module] = []
    for into, out in pairwise(SIZES[:-1]):
        layers += [nn.Linear(into, out), *([norm(out)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(SIZES[-2], SIZES[-1]))


def named(template: str, norm_template: str = "", count: int = 4) -> nn.Module:
    """A chain of layers under names such as `fc{}`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(count):
        into, out = (SIZES[i], SIZES[i + 1]) if i < count - 1 else (SIZES[i], SIZES[-1])
        layers[template.format(i)] = nn.Linear(into, out)
        if i < count - 1:
            if norm_template:
                layers[norm_template.format(i)] = nn.BatchNorm1d(out)
            layers[f"act_{i}"] = nn.ReLU()
    return nn.Sequential(layers)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_nonlinearity(name: str) -> None:
    module = randomise(sequential(ACTIVATIONS[name]))
    assert_same_function(network_for("mlp", module.state_dict(), activation=name), module, vectors())


def test_relu_is_assumed_and_said() -> None:
    module = randomise(sequential())
    network = network_for("mlp", module.state_dict())
    assert_same_function(network, module, vectors())
    assert "ReLU" in network.assumptions[0]
    assert network_for("mlp", module.state_dict(), activation="relu").assumptions == ()


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_normalisation_between_layers(norm: type[nn.Module]) -> None:
    module = randomise(sequential(norm=norm))
    assert_same_function(network_for("mlp", module.state_dict()), module, vectors())


@pytest.mark.parametrize(("template", "norm"), [("fc{}", ""), ("layer{}", "bn{}"), ("linear{}", "norm{}")])
def test_named_layers(template: str, norm: str) -> None:
    module = randomise(named(template, norm))
    assert_same_function(network_for("mlp", module.state_dict()), module, vectors())


def test_layers_are_ordered_by_number_not_by_file() -> None:
    module = nn.Sequential(OrderedDict((f"fc{i}", nn.Linear(6, 6)) for i in range(12)))
    module.fc11 = nn.Linear(6, 3)
    randomise(module)
    state = module.state_dict()
    shuffled = {key: state[key] for key in sorted(state)}  # fc0, fc1, fc10, fc11, fc2, …
    network = network_for("mlp", shuffled, activation="leaky_relu")
    expected = vectors()
    for i in range(12):
        expected = module.get_submodule(f"fc{i}")(expected)
        if i < 11:
            expected = nn.functional.leaky_relu(expected)
    torch.testing.assert_close(network(shuffled, vectors()), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("template", ["net.{}", "layers.{}.linear"])
def test_nested_names(template: str) -> None:
    plain = randomise(named("fc{}"))
    state = {}
    for key, tensor in plain.state_dict().items():
        number, leaf = key.removeprefix("fc").split(".")
        state[f"{template.format(number)}.{leaf}"] = tensor
    with torch.no_grad():
        got, expected = network_for("mlp", state)(state, vectors()), plain(vectors())
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_inputs_are_flattened() -> None:
    module = randomise(sequential())
    network = network_for("mlp", module.state_dict())
    with torch.no_grad():
        expected = module(vectors())
    torch.testing.assert_close(network(module.state_dict(), vectors().reshape(5, 2, 3)), expected)


@pytest.mark.parametrize(
    ("dtypes", "runs_in"),
    [
        ([torch.float16], torch.float32),
        ([torch.bfloat16], torch.float32),
        ([torch.float32, torch.float64], torch.float64),
    ],
)
def test_narrow_weights_run_in_float32(dtypes: list[torch.dtype], runs_in: torch.dtype) -> None:
    module = sequential()
    state = {key: t.to(dtypes[i % len(dtypes)]) for i, (key, t) in enumerate(module.state_dict().items())}
    module.load_state_dict(state)
    module.to(runs_in)
    got = network_for("mlp", state)(state, vectors())
    assert got.dtype == runs_in
    torch.testing.assert_close(got, module(vectors().to(runs_in)), rtol=1e-5, atol=1e-6)


def test_only_what_is_needed_is_read() -> None:
    module = sequential(norm=nn.BatchNorm1d)
    network = network_for("mlp", module.state_dict())
    assert set(network.shapes) == {k for k in module.state_dict() if "num_batches_tracked" not in k}


def test_an_unknown_option_lists_what_there_is() -> None:
    state = sequential().state_dict()
    with pytest.raises(UsageError, match="did you mean `activation`") as caught:
        network_for("mlp", state, activaton="gelu")
    assert "activation=relu|tanh|gelu" in caught.value.remedy
    with pytest.raises(UsageError, match="did you mean `gelu`"):
        network_for("mlp", state, activation="gellu")


def test_an_architecture_without_a_network_is_refused() -> None:
    layout = SimpleNamespace(spec=SimpleNamespace(name="llama"), prefix="", tensors={})
    with pytest.raises(ContentError, match="no network to run for the architecture llama") as caught:
        build_network(cast(Any, layout), {}, {})
    for name in FAMILIES:
        assert name in caught.value.remedy


def test_a_chain_that_does_not_chain_is_refused() -> None:
    state = sequential().state_dict()
    infos = infos_of(state) | {"2.weight": Info((8, 11))}
    with pytest.raises(ContentError, match=r"0\.weight has 9 outputs and the next layer, 2\.weight, has 11"):
        build_network(layout_of("mlp", state), infos, {})


def test_a_network_in_memory_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What headers say of shapes is enough to see whether it is the checkpoint's."""
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    save_file(module.state_dict(), tmp_path / "net.safetensors")
    with open_checkpoint(tmp_path / "net.safetensors") as checkpoint:
        read: list[str] = []
        monkeypatch.setattr(type(checkpoint), "__getitem__", lambda self, key: read.append(key))
        network = user_network(GivenNetwork("net", module), checkpoint, "", {})
    assert network.shapes["0.weight"] == (4, 3)
    assert not read
