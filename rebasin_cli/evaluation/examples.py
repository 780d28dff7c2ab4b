"""Example inputs of a network: as the user writes them, from a file or a function, or guessed from its first layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.data import load_data
from rebasin_cli.evaluation.inputs import Inputs, arguments, each, leaves
from rebasin_cli.evaluation.running import in_dtype
from rebasin_cli.evaluation.user_code import call_named, import_named, is_named

FEWEST = 4
"""Examples. What one of them leaves alike (a unit that answers to none of its values), another tells apart."""

HELP = "sizes (4x3x32x32), token ids with their number (4x16:1000), several with commas, a file, or MODULE:FUNCTION"
_SHAPE = re.compile(r"(\d+(?:x\d+)*)(?::(\d+))?")
_LARGEST = 1 << 26  # numbers
_TOKENS, _SIDES = 12, (32, 224, 64, 16, 8)


def parse_inputs(text: str, seed: int = 0) -> Inputs:
    """The inputs that `--inputs` names.

    Args:
        text: `4x3x32x32` is a tensor of random numbers, `4x16:1000` one of whole numbers below 1000; with commas
            between them they are arguments by position. Otherwise a file of arrays, or a function that returns inputs.

    Raises:
        UsageError: it is none of these. ContentError: the file or the function cannot be used.
    """
    if is_named(text):
        made = call_named("--inputs", text, import_named("--inputs", text, HELP))
        if not isinstance(made, (Tensor, tuple, list, Mapping)):
            raise ContentError(f"--inputs {text}: the function returned {type(made).__name__}", remedy=HELP)
        return tuple(made) if isinstance(made, list) else made
    matches = [_SHAPE.fullmatch(part.strip()) for part in text.split(",")]
    if all(matches):
        generator = torch.Generator().manual_seed(seed)
        made = tuple(_tensor(match[1], match[2], text, generator) for match in matches if match)
        return made[0] if len(made) == 1 else made
    if not Path(text).exists():
        raise UsageError(f"--inputs {text}: there is no such file", remedy=f"give {HELP}")
    return load_data(Path(text), limit=2 * FEWEST).inputs


def _tensor(shape: str, below: str | None, text: str, generator: torch.Generator) -> Tensor:
    sizes = [int(n[:12]) for n in shape.split("x")]
    if not 0 < torch.Size(sizes).numel() <= _LARGEST:
        raise UsageError(f"--inputs {text}: a tensor of {shape} is empty or too large", remedy=f"give {HELP}")
    if below is None:
        return torch.randn(sizes, generator=generator)
    return torch.randint(0, max(1, int(below[:12])), sizes, generator=generator)


def enough_examples(inputs: Inputs, seed: int = 0) -> Inputs:
    """The inputs with so many examples that units can be told apart: further ones are drawn like those that are there.

    The first axis of every tensor counts examples, if all have it alike; otherwise the inputs stay as they are.
    """
    lengths = {tensor.shape[0] if tensor.dim() else 0 for tensor in leaves(inputs).values()}
    count = next(iter(lengths)) if len(lengths) == 1 else 0
    if not 0 < count < FEWEST:
        return inputs
    generator = torch.Generator().manual_seed(seed)

    def more(_: str, tensor: Tensor) -> Tensor:
        shape = (FEWEST - count, *tensor.shape[1:])
        if not tensor.is_floating_point():
            places = torch.randint(0, tensor.numel(), shape, generator=generator)
            return torch.cat([tensor, tensor.flatten()[places]])
        spread = float(tensor.std()) if tensor.numel() > 1 else 1.0
        noise = torch.randn(shape, generator=generator).to(tensor)
        return torch.cat([tensor, noise * (spread or 1.0) + tensor.mean()])

    return each(more, inputs)


def guesses(module: nn.Module) -> Iterator[tuple[Inputs, str]]:
    """Inputs that a network runs on, from what it says of itself or its first layer, with how `--inputs` has them."""
    for inputs, called in _guesses(module):
        if runs_on(module, inputs):
            yield inputs, called


def runs_on(module: nn.Module, inputs: Inputs) -> bool:
    """Whether a network takes inputs, in the dtype of its weights."""
    floats = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    positional, named = arguments(module.forward, in_dtype(inputs, floats))
    try:
        with torch.no_grad():
            module(*positional, **named)
    except Exception:  # the user's own code
        return False
    return True


def _guesses(module: nn.Module) -> Iterator[tuple[Inputs, str]]:
    dummy = getattr(module, "dummy_inputs", None)
    if isinstance(dummy, Mapping) and all(isinstance(value, Tensor) for value in dummy.values()):
        yield dict(dummy), "the network's own dummy_inputs"
    generator = torch.Generator().manual_seed(0)
    first = next((part for part in module.modules() if isinstance(part, _READERS)), None)
    if isinstance(first, nn.Embedding):
        tokens = torch.randint(0, first.num_embeddings, (FEWEST, _TOKENS), generator=generator)
        yield tokens, f"{FEWEST}x{_TOKENS}:{first.num_embeddings}"
        return
    shapes: list[tuple[int, ...]] = []
    if isinstance(first, nn.Linear):
        shapes = [(FEWEST, first.in_features), (FEWEST, _TOKENS, first.in_features)]
    elif isinstance(first, nn.RNNBase):
        shapes = [(FEWEST, _TOKENS, first.input_size)]
    elif isinstance(first, nn.modules.conv._ConvNd):
        shapes = [(FEWEST, first.in_channels, *(side for _ in first.kernel_size)) for side in _SIDES]
    for shape in shapes:
        yield torch.randn(shape, generator=generator), "x".join(map(str, shape))


_READERS: tuple[Any, ...] = (nn.Embedding, nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase)
