"""Subjects made of a torch module and example inputs: the common case."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.proving import Subject, Trace


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

    return Subject(name, state, run, config, overrides or {}, tolerance, _ties(module, prefix, state))


def _ties(module: nn.Module, prefix: str, state: Mapping[str, Tensor]) -> tuple[tuple[str, ...], ...]:
    """Keys of the state that are one tensor of the module."""
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if prefix + name in state:
            names.setdefault(id(tensor), []).append(prefix + name)
    return tuple(tuple(keys) for keys in names.values() if len(keys) > 1)


def run_module(module: nn.Module, inputs: Sequence[Any] | Mapping[str, Any], trace: Trace | None) -> dict[str, Tensor]:
    """Run a module without gradients and return every tensor among its outputs, by name."""
    hooks = []
    if trace is not None:
        for name, part in module.named_modules():
            hooks.append(part.register_forward_hook(_recorder(trace, name or "the whole network")))
    with torch.no_grad():
        outputs = module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)
    for hook in hooks:
        hook.remove()
    return tensors_in(outputs)


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Every tensor of floats in nested values, in another dtype."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: in_dtype(item, dtype) for key, item in value.items()}
    return tuple(in_dtype(item, dtype) for item in value) if isinstance(value, (list, tuple)) else value


def answers_of(outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The logits where there are some: what stands beside them (an encoder's hidden states) may be in any order."""
    logits = {name: output for name, output in outputs.items() if name == "output.logits"}
    return logits or outputs


def tensors_in(value: Any, name: str = "output") -> dict[str, Tensor]:
    """Every floating-point tensor in nested outputs, by a dotted name."""
    if isinstance(value, Tensor):
        return {name: value} if value.is_floating_point() else {}
    if isinstance(value, Mapping):
        return {k: t for key, item in value.items() for k, t in tensors_in(item, f"{name}.{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: t for at, item in enumerate(value) for k, t in tensors_in(item, f"{name}.{at}").items()}
    return {}


def _recorder(trace: Trace, name: str) -> Any:
    def record(module: nn.Module, inputs: Any, outputs: Any) -> None:
        for tensor in tensors_in(outputs).values():
            trace.append((name, tensor.detach().clone()))

    return record
