"""Tiny networks whose units have signs: a spec, a state of random float64 tensors, and the function, as `networks` has.

A stream under RMSNorm with grouped-query attention and a gated MLP, experts with gated MLPs, and an Elman network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rebasin_cli.spec import Layout, Request, bind
from rebasin_cli.spec.language.loading import parse_spec
from tests.networks import State, Tiny

SIGNED: Mapping[str, Tiny] = {
    "stream": Tiny(
        """
sizes:
  head_dim: [4]
dims:
  q: within kv
  v: within kv
signs:
  - s
  - v
  - m
tensors:
  e: _ s
  norm.{0,1,2}: "|s|"
  q: (kv q _:head_dim) s
  k: (kv _:head_dim) s
  v: (kv v) s
  o: s (kv q v)
  gate: "|m| s"
  up: m s
  down: s m
  out: _ s
""",
        {
            "e": (9, 10), "norm.0": (10,), "norm.1": (10,), "norm.2": (10,), "q": (24, 10), "k": (8, 10),
            "v": (10, 10), "o": (10, 30), "gate": (12, 10), "up": (12, 10), "down": (10, 12), "out": (9, 10),
        },
    ),
    "experts": Tiny(
        """
dims:
  expert: index e in experts.{e}.*
  m: within expert
signs:
  - m
tensors:
  router: expert s
  experts.{e}.gate: "|m| s"
  experts.{e}.up: m s
  experts.{e}.down: s m
  in: s _
""",
        {"router": (4, 6), "in": (6, 5)}
        | {f"experts.{e}.{name}": (5, 6) for e in range(4) for name in ("gate", "up")}
        | {f"experts.{e}.down": (6, 5) for e in range(4)},
    ),
    "elman": Tiny(
        """
signs:
  - h
tensors:
  ih: h _
  hh: h h
  bias: h
  out: _ h
""",
        {"ih": (8, 5), "hh": (8, 8), "bias": (8,), "out": (3, 8)},
    ),
}  # fmt: skip


def _norm(gain: Tensor, x: Tensor) -> Tensor:
    return gain * x / x.square().mean(-1, keepdim=True).sqrt()


def _gated(p: State, before: str, x: Tensor) -> Tensor:
    inner = torch.nn.functional.silu(x @ p[f"{before}gate"].T) * (x @ p[f"{before}up"].T)
    return inner @ p[f"{before}down"].T


def _stream(p: State, x: Tensor) -> Tensor:
    """Over the tokens x (N, tokens, 9): 2 key heads with 3 query heads each."""
    s = x @ p["e"]
    n = _norm(p["norm.0"], s)
    q = (n @ p["q"].T).unflatten(-1, (2, 3, 4))
    k, v = (n @ p["k"].T).unflatten(-1, (2, 4)), (n @ p["v"].T).unflatten(-1, (2, 5))
    weights = torch.einsum("ntgqd,nugd->ngqtu", q, k).softmax(-1)
    s = s + torch.einsum("ngqtu,nugv->ntgqv", weights, v).flatten(-3) @ p["o"].T
    s = s + _gated(p, "", _norm(p["norm.1"], s))
    return _norm(p["norm.2"], s) @ p["out"].T


def _experts(p: State, x: Tensor) -> Tensor:
    s = x @ p["in"].T
    gates = (s @ p["router"].T).softmax(-1)
    return (s + sum(gates[:, e, None] * _gated(p, f"experts.{e}.", s) for e in range(4))) @ p["in"]


def _elman(p: State, x: Tensor) -> Tensor:
    """Over x (N, steps, 5)."""
    h = x.new_zeros(len(x), 8)
    for step in range(x.shape[1]):
        h = torch.tanh(x[:, step] @ p["ih"].T + h @ p["hh"].T + p["bias"])
    return h @ p["out"].T


_FORWARD: Mapping[str, tuple[Callable[[State, Tensor], Tensor], tuple[int, ...]]] = {
    "stream": (_stream, (4, 9)),
    "experts": (_experts, (5,)),
    "elman": (_elman, (3, 5)),
}


def signed_forward(name: str, state: State) -> Tensor:
    """What a network answers to some random inputs, written without any of our code."""
    forward, shape = _FORWARD[name]
    generator = torch.Generator().manual_seed(0)
    return forward(state, torch.randn(20, *shape, generator=generator, dtype=torch.float64))


def signed_layout(name: str) -> Layout:
    """The bound spec of one of the networks, in which signs may be turned."""
    return bind(parse_spec(SIGNED[name].text, f"{name}.yaml"), SIGNED[name].shapes, Request(signs=True))


def signed_state(name: str, seed: int) -> dict[str, Tensor]:
    """Random float64 tensors of its shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in SIGNED[name].shapes.items()}
