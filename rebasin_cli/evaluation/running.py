"""Running a torch module on given inputs, and what came out of it and of every module inside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from rebasin_cli.evaluation.comparing import Trace

_PARTS = (Tensor, Distribution, Transform, list)
"""What a distribution of torch is made of."""


def run_module(module: nn.Module, inputs: Sequence[Any] | Mapping[str, Any], trace: Trace | None) -> dict[str, Tensor]:
    """Run a module without gradients and return every tensor among its outputs, by name."""
    with recorded(module, trace), torch.no_grad():
        return tensors_in(module(**inputs) if isinstance(inputs, Mapping) else module(*inputs))


@contextmanager
def recorded(module: nn.Module, trace: Trace | None) -> Iterator[None]:
    """Append what every module makes to a trace, if there is one."""
    with ExitStack() as stack:
        for name, part in module.named_modules() if trace is not None else ():
            assert trace is not None
            stack.callback(part.register_forward_hook(_recorder(trace, name or "the whole network")).remove)
        yield


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Every tensor of floats in nested values, in another dtype; complex ones in that of two such floats."""
    if isinstance(value, Tensor):
        if value.is_complex():
            return value.to(dtype.to_complex())
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: in_dtype(item, dtype) for key, item in value.items()}
    if isinstance(value, list):
        return [in_dtype(item, dtype) for item in value]
    return tuple(in_dtype(item, dtype) for item in value) if isinstance(value, tuple) else value


def module_in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with its tensors so; `module.to` would take the imaginary parts of complex ones away."""
    made: nn.Module = module._apply(partial(in_dtype, dtype=dtype))  # type: ignore[no-untyped-call]
    return made


INNER = re.compile(
    r"(hidden(_states?)?|(^|_)states?|attentions|past_key_values|features|embeddings?|pooler_output|mems|cache_params"
    r"|model_output|router_logits)$"
)
"""Names of outputs that are inner states of a network."""


def answers_of(outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """All outputs; where there are logits, without the inner states beside them, which may be in any order."""
    if "output.logits" not in outputs:
        return outputs
    return {name: output for name, output in outputs.items() if not INNER.search(name.split(".")[1])}


def tensors_in(value: Any, name: str = "output") -> dict[str, Tensor]:
    """Every floating-point tensor in nested outputs, by a dotted name; of complex ones the two parts of each value.

    Of a distribution of torch its parameters.
    """
    if isinstance(value, Tensor):
        value = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
        return {name: value} if value.is_floating_point() else {}
    if isinstance(value, Mapping):
        return {k: t for key, item in value.items() for k, t in tensors_in(item, f"{name}.{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: t for at, item in enumerate(value) for k, t in tensors_in(item, f"{name}.{at}").items()}
    return {k: t for key, item in _members(value).items() for k, t in tensors_in(item, f"{name}.{key}").items()}


def unseen_in(value: Any) -> list[str]:
    """The types of the objects in nested outputs of which `tensors_in` looks into none."""
    if value is None or isinstance(value, (Tensor, str, bytes, int, float, complex)):
        return []
    if isinstance(value, (list, tuple, Mapping)):
        inside = value.values() if isinstance(value, Mapping) else value
        return [found for item in inside for found in unseen_in(item)]
    members = _members(value)
    return [f for item in members.values() for f in unseen_in(item)] if members else [type(value).__name__]


def _members(value: Any) -> Mapping[str, Any]:
    """What an object among the outputs consists of, by name; empty where that is not known."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in fields(value)}
    if isinstance(value, (Distribution, Transform)):
        return {key: item for key, item in vars(value).items() if isinstance(item, _PARTS)}
    return {}


def _recorder(trace: Trace, name: str) -> Any:
    def record(module: nn.Module, inputs: Any, outputs: Any) -> None:
        for tensor in tensors_in(outputs).values():
            trace.append((name, tensor.detach().clone()))

    return record
