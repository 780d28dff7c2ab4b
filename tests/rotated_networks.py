"""Small attention networks whose streams and heads may be rotated, as specs and as functions of their tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from rebasin_cli.spec import Layout, Request, bind
from rebasin_cli.spec.language.loading import parse_spec

HEADS, STREAM, KEYS, VALUES, INNER = 3, 8, 4, 5, 6

_LAYER = """
dims:
  qk: within h
  v: within h
scales:
  - qk
  - v
rotations:
  - s keeping ones
  - qk
  - v
norms:
  norm.weight: norm.bias q k value up
  last.weight: last.bias head
tensors:
  stem: s _
  norm.{weight,bias}?: s
  q: h qk s
  k: h /qk s
  value: (h v) s
  o: s (h v)
  up: m s
  down: s m
  last.{weight,bias}?: s
  head: _ s
"""

_RMS = _LAYER.replace(" keeping ones", "")
_ROTARY = (
    _RMS.replace("  qk: within h\n", "").replace("scales:\n  - qk\n", "sizes:\n  width: 4\nscales:\n")
    .replace("  - qk\n", "  - qk in halves within h\n").replace("h qk s", "h qk:width s")
    .replace("h /qk s", "h /qk:width s")
)  # fmt: skip

TEXTS = {"layer": _LAYER, "rms": _RMS, "halves": _ROTARY, "neighbours": _ROTARY.replace("halves", "neighbours")}
"""By name: those that rotary embeddings turn have their name, and RMSNorms."""

State = Mapping[str, Tensor]


def rotated_state(name: str, seed: int) -> dict[str, Tensor]:
    """Random float64 tensors; RMSNorms have no biases."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "stem": (STREAM, 7), "norm.weight": (STREAM,), "norm.bias": (STREAM,), "q": (HEADS, KEYS, STREAM),
        "k": (HEADS, KEYS, STREAM), "value": (HEADS * VALUES, STREAM), "o": (STREAM, HEADS * VALUES),
        "up": (INNER, STREAM), "down": (STREAM, INNER), "last.weight": (STREAM,), "last.bias": (STREAM,),
        "head": (7, STREAM),
    }  # fmt: skip
    kept = {key: shape for key, shape in shapes.items() if name == "layer" or not key.endswith("bias")}
    state = {key: torch.randn(shape, generator=generator, dtype=torch.float64) for key, shape in kept.items()}
    return {key: 1 + 0.2 * tensor if key.endswith("weight") else tensor for key, tensor in state.items()}


def rotated_layout(name: str, *, rotations: bool = True) -> Layout:
    """The spec bound to these tensors."""
    shapes = {key: tuple(tensor.shape) for key, tensor in rotated_state(name, 0).items()}
    return bind(parse_spec(TEXTS[name], f"{name}.yaml"), shapes, Request(rotations=rotations))


def turned(name: str, found: Tensor) -> Tensor:
    """Queries or keys (.., tokens, KEYS) with the rotary embedding that a network has, if it has one."""
    if name not in ("halves", "neighbours"):
        return found
    shape = (2, KEYS // 2) if name == "halves" else (KEYS // 2, 2)
    one, two = found.unflatten(-1, shape).unbind(-2 if name == "halves" else -1)
    angles = torch.arange(found.shape[-2])[:, None] * torch.tensor([1.0, 0.1]).double()
    both = one * angles.cos() - two * angles.sin(), one * angles.sin() + two * angles.cos()
    return torch.stack(both, -2 if name == "halves" else -1).flatten(-2)


def rotated_forward(name: str, state: State) -> Tensor:
    """The outputs of some examples of five tokens."""
    x = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    def norm(stream: Tensor, module: str) -> Tensor:
        if name == "layer":
            return F.layer_norm(stream, (STREAM,), state[f"{module}.weight"], state[f"{module}.bias"])
        return F.rms_norm(stream, (STREAM,), state[f"{module}.weight"])

    stream = x @ state["stem"].T
    read = norm(stream, "norm")
    q, k = (turned(name, torch.einsum("bts,hds->bhtd", read, state[key])) for key in "qk")
    values = (read @ state["value"].T).unflatten(-1, (HEADS, VALUES))
    seen = torch.einsum("bhtu,buhv->bthv", (q @ k.mT / 4).softmax(-1), values)
    stream = stream + seen.flatten(2) @ state["o"].T + F.gelu(read @ state["up"].T) @ state["down"].T
    return norm(stream, "last") @ state["head"].T
