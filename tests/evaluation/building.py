"""Networks for tests: real modules with random weights, and the layouts of their state dicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.networks.network import Network
from rebasin_cli.evaluation.networks.registry import build_network
from rebasin_cli.spec import Layout, bind, find_spec


@dataclass(frozen=True, slots=True)
class Info:
    """The shape of a tensor, as a header gives it."""

    shape: tuple[int, ...]


def infos_of(state: Mapping[str, Tensor]) -> dict[str, Info]:
    return {key: Info(tuple(tensor.shape)) for key, tensor in state.items()}


def layout_of(name: str, state: Mapping[str, Tensor]) -> Layout:
    return bind(find_spec(name), {key: tuple(tensor.shape) for key, tensor in state.items()})


def network_for(name: str, state: Mapping[str, Tensor], **options: str) -> Network:
    """The network under test; `norm_eps` stands for the option norm-eps."""
    given = {key.replace("norm_eps", "norm-eps").replace("stem_", "stem-"): v for key, v in options.items()}
    return build_network(layout_of(name, state), infos_of(state), given)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Float64 and every tensor random, running statistics and normalisation weights too, in evaluation mode.

    Weights are scaled to keep the signal's size, so that no part of the network is lost in rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    module.double()
    state = module.state_dict()
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if key.endswith("running_var"):
            state[key] = 0.5 + noise.abs()
        elif tensor.ndim > 1:
            state[key] = noise * (2 / tensor[0].numel()) ** 0.5
        elif key.endswith("weight"):
            state[key] = 1 + 0.3 * noise
        else:
            state[key] = 0.3 * noise
    module.load_state_dict(state)
    return module.eval()


def images(size: int, channels: int = 3, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, channels, size, size, generator=generator, dtype=torch.float64)


def assert_same_function(network: Network, module: nn.Module, inputs: Tensor, prefix: str = "") -> None:
    """The functional network equals the module on `inputs` (float64, relative 1e-10), and is not trivially constant."""
    state = {prefix + key: tensor for key, tensor in module.state_dict().items()}
    with torch.no_grad():
        expected = module(inputs)
        got = network(state, inputs)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert (expected[0] - expected[1]).abs().max() > 1e-6
