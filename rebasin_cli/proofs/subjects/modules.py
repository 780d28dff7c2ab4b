"""Subjects made of a torch module and example inputs: the common case."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.running import run_module
from rebasin_cli.proofs.proof import Subject, Trace


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give a module float64 weights without any symmetry of their own, in place.

    Fresh networks have norms of ones, biases of zeros and gates of zeros, in which a wrong permutation cannot show.
    """
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    with torch.no_grad():
        for weight in module.parameters():
            scale = 0.3 if weight.dim() < 2 else float(weight.std()) if weight.numel() > 1 else 0.3
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.add_((scale or 0.1) * noise)
        for name, tensor in module.named_buffers():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
            elif name.endswith("running_mean"):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    return module


def module_subject(
    name: str,
    module: nn.Module,
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    prefix: str = "",
    drop: Sequence[str] = (),
    config: Mapping[str, object] | None = None,
    overrides: Mapping[str, int] | None = None,
    tolerance: float = 1e-9,
) -> Subject:
    """A subject from a module whose checkpoints are its `state_dict()`.

    Args:
        inputs: positional or keyword arguments of its forward.
        prefix: what checkpoints put in front of its keys.
        drop: keys that checkpoints do not have (second names of tied tensors).
    """
    state = {prefix + k: v.detach().clone() for k, v in module.state_dict().items() if k not in drop}

    def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        network = copy.deepcopy(module)
        missing, unexpected = network.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items()}, strict=False)
        assert not unexpected
        assert set(missing) <= set(drop)
        return run_module(network, inputs, trace)

    ties = _ties(module, prefix, state)
    return Subject(name, state, run, config, overrides or {}, tolerance, ties, (module, inputs))


def _ties(module: nn.Module, prefix: str, state: Mapping[str, Tensor]) -> tuple[tuple[str, ...], ...]:
    """Keys of the state that are one tensor of the module."""
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if prefix + name in state:
            names.setdefault(id(tensor), []).append(prefix + name)
    return tuple(tuple(keys) for keys in names.values() if len(keys) > 1)
