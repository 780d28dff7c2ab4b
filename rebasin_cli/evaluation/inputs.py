"""What a network reads: one tensor, or several by place or by name, nested at will; the first axis of each counts
examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Inputs: TypeAlias = "Tensor | tuple[Inputs, ...] | Mapping[str, Inputs]"
"""A tuple holds positional arguments of a forward, a mapping its keywords."""

NAME = "inputs"


def leaves(inputs: Inputs, name: str = NAME) -> dict[str, Tensor]:
    """Every tensor by its dotted name: `inputs`, or `inputs.0`, `inputs.mask`; flags among them are left out."""
    if isinstance(inputs, Tensor):
        return {name: inputs}
    return {key: tensor for part, value in _parts(inputs) for key, tensor in leaves(value, f"{name}.{part}").items()}


def each(function: Callable[[str, Tensor], Tensor], inputs: Inputs, name: str = NAME) -> Inputs:
    """The same structure with `function` of every name and tensor in its place; other values stay as they are."""
    if isinstance(inputs, Tensor):
        return function(name, inputs)
    if not isinstance(inputs, (Mapping, tuple, list)):
        return inputs
    made = {part: each(function, value, f"{name}.{part}") for part, value in _parts(inputs)}
    return made if isinstance(inputs, Mapping) else tuple(made.values())


def rows_of(inputs: Inputs, rows: slice | Tensor) -> Inputs:
    """Some of the examples."""
    return each(lambda _, tensor: tensor[rows], inputs)


def joined(batches: Sequence[Inputs]) -> Inputs:
    """Batches of one structure, one after the other.

    Raises:
        ValueError: their structures differ.
    """
    parts = [leaves(batch) for batch in batches]
    for number, part in enumerate(parts):
        if list(part) != list(parts[0]):
            raise ValueError(f"batch {number} holds {', '.join(part)}, and the first one {', '.join(parts[0])}")
    return each(lambda name, _: torch.cat([part[name] for part in parts]), batches[0])


def from_names(arrays: Mapping[str, Tensor]) -> Inputs:
    """Put together what stands under `inputs`, or `inputs.NAME`; a tuple where the names are 0, 1, …"""
    if NAME in arrays:
        return arrays[NAME]
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in arrays.items():
        part, _, rest = name.removeprefix(f"{NAME}.").partition(".")
        found.setdefault(part, {})[f"{NAME}.{rest}" if rest else NAME] = tensor
    if sorted(found) == sorted(map(str, range(len(found)))):
        return tuple(from_names(found[str(place)]) for place in range(len(found)))
    return {part: from_names(inner) for part, inner in found.items()}


def arguments(forward: Callable[..., Any], inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a forward: a tuple's and a mapping's members, if it takes them one by one.

    A forward that takes the tuple or the mapping itself gets it whole.
    """
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    given: tuple[tuple[Any, ...], dict[str, Any]] = ((), dict(inputs)) if isinstance(inputs, Mapping) else (inputs, {})
    try:
        signature = inspect.signature(forward)
    except ValueError:  # a program of torch.jit has none
        return given
    try:
        signature.bind(*given[0], **given[1])
    except TypeError:
        try:
            signature.bind(inputs)
        except TypeError:
            return given  # the call itself says best what is wrong
        return (inputs,), {}
    return given


def _parts(inputs: tuple[Inputs, ...] | Mapping[str, Inputs]) -> list[tuple[str, Inputs]]:
    if isinstance(inputs, Mapping):
        return list(inputs.items())
    return [(str(place), value) for place, value in enumerate(inputs)] if isinstance(inputs, (tuple, list)) else []
