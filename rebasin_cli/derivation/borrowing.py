"""A module in evaluation mode and in float64 for as long as it is worked on, and as it was afterwards.

It is not copied: hooks and closures of a copy would still run the original.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from rebasin_cli.derivation.widening import WIDE
from rebasin_cli.errors import ContentError


@contextmanager
def borrowed(module: nn.Module) -> Iterator[None]:
    """While this is entered every parameter and buffer is a copy in float64 (complex128).

    Afterwards mode, tensors, gradients and `requires_grad` are what they were.

    Raises:
        ContentError: it, or a part of it, is a program of torch.jit, of which no function can be replaced.
    """
    scripted = [name or "the network" for name, part in module.named_modules() if isinstance(part, ScriptModule)]
    if scripted:
        raise ContentError(
            f"{scripted[0]} is a program of torch.jit, which cannot be searched",
            remedy="give the module that was scripted or traced: its state dict has the same keys",
        )
    modes = [(part, part.training) for part in module.modules()]
    parameters = {id(p): (p, p.data, p.requires_grad, p.grad) for p in module.parameters()}
    buffers = [(part, dict(part._buffers)) for part in module.modules()]
    uncompiled = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        module.eval()
        for parameter, data, _, _ in parameters.values():
            parameter.grad = None
            parameter.data = _wide(data)
        copies: dict[int, Tensor] = {}
        for part, own in buffers:
            for name, buffer in own.items():
                if buffer is not None:
                    part._buffers[name] = copies.setdefault(id(buffer), _wide(buffer.detach()))
        with uncompiled:
            yield
    finally:
        for parameter, data, requires_grad, gradient in parameters.values():
            parameter.data = data
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for part, own in buffers:
            part._buffers.update(own)
        for part, mode in modes:
            part.training = mode


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(WIDE.get(tensor.dtype, tensor.dtype), copy=True)
