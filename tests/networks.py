"""A table of tiny networks: a spec, a state of random float64 tensors, and the function. Shared by the tests.

They stand for the hard shapes of the language: chains, residual streams, flattening, concatenation, heads with
insides, groups across two axes, units in the key, and dims on two sides of one tensor. Each can be run, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rebasin_cli.spec import Layout, bind, load_spec

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Tiny:
    """Spec text, and shapes by key."""

    text: str
    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int] | None = None


TINY: Mapping[str, Tiny] = {
    "chain": Tiny(
        """
tensors:
  "{i}.weight": h.{i} h.{prev i}
  "{i}.bias": h.{i}
dims:
  h.{last i}: fixed
""",
        {"0.weight": (7, 5), "0.bias": (7,), "2.weight": (6, 7), "2.bias": (6,), "4.weight": (3, 6), "4.bias": (3,)},
    ),
    "residual": Tiny(
        """
tensors:
  in: s _
  b{i}.up: m.{i} s
  b{i}.down: s m.{i}
  b{i}.norm: s
  out: _ s
""",
        {
            "in": (8, 6),
            "out": (5, 8),
            "b0.up": (7, 8),
            "b0.down": (8, 7),
            "b0.norm": (8,),
            "b1.up": (9, 8),
            "b1.down": (8, 9),
            "b1.norm": (8,),
        },
    ),
    "flatten": Tiny(
        """
tensors:
  conv: c _ _ _
  fc: f (c _)
  out: _ f
""",
        {"conv": (6, 3, 2, 2), "fc": (5, 24), "out": (4, 5)},
    ),
    "concatenation": Tiny(
        """
tensors:
  x: a _
  y: b _
  z: c a + b + a
  out: _ c + b
""",
        {"x": (4, 5), "y": (6, 5), "z": (7, 14), "out": (3, 13)},
    ),
    "heads": Tiny(
        """
sizes:
  head_dim: [4]
dims:
  q: within kv
  v: within kv
tensors:
  q: (kv q _:head_dim) s
  k: (kv _:head_dim) s
  v: (kv v) s
  o: s (kv q v)
  e: _ s
""",
        {"q": (24, 10), "k": (8, 10), "v": (10, 10), "o": (10, 30), "e": (9, 10)},
    ),
    "groups": Tiny(
        """
dims:
  i: within g
  o: within g
tensors:
  first: (g i) _
  grouped: (g o) i _
  last: _ (g o)
""",
        {"first": (12, 5), "grouped": (15, 4, 3), "last": (4, 15)},
    ),
    "experts": Tiny(
        """
dims:
  expert: index e in experts.{e}.*
  m: within expert
tensors:
  router: expert s
  experts.{e}.up: m s
  experts.{e}.down: s m
  in: s _
""",
        {"router": (4, 6), "in": (6, 5)}
        | {f"experts.{e}.up": (5, 6) for e in range(4)}
        | {f"experts.{e}.down": (6, 5) for e in range(4)},
    ),
    "recurrent": Tiny(
        """
tensors:
  ih: (4 h) _
  hh: (4 h) h
  bias: (4 h)
  out: _ h
""",
        {"ih": (32, 5), "hh": (32, 8), "bias": (32,), "out": (3, 8)},
    ),
    "tied": Tiny(
        """
tensors:
  embed: _ s
  dense: s s
  bias: s
""",
        {"embed": (9, 7), "dense": (7, 7), "bias": (7,)},
    ),
}


def _chain(p: State, x: Tensor) -> Tensor:
    for layer in ("0", "2"):
        x = torch.relu(x @ p[f"{layer}.weight"].T + p[f"{layer}.bias"])
    return x @ p["4.weight"].T + p["4.bias"]


def _residual(p: State, x: Tensor) -> Tensor:
    s = x @ p["in"].T
    for block in ("b0", "b1"):
        s = p[f"{block}.norm"] * (s + torch.relu(s @ p[f"{block}.up"].T) @ p[f"{block}.down"].T)
    return s @ p["out"].T


def _flatten(p: State, x: Tensor) -> Tensor:
    channels = torch.relu(F.conv2d(x, p["conv"]))  # (N, c, 2, 2)
    return torch.relu(channels.flatten(1) @ p["fc"].T) @ p["out"].T


def _concatenation(p: State, x: Tensor) -> Tensor:
    a, b = torch.relu(x @ p["x"].T), torch.relu(x @ p["y"].T)
    c = torch.relu(torch.cat((a, b, a), 1) @ p["z"].T)
    return torch.cat((c, b), 1) @ p["out"].T


def _heads(p: State, x: Tensor) -> Tensor:
    """Grouped-query attention over the tokens x (N, tokens, 9): 2 key heads with 3 query heads each."""
    s = x @ p["e"]
    q = (s @ p["q"].T).unflatten(-1, (2, 3, 4))
    k, v = (s @ p["k"].T).unflatten(-1, (2, 4)), (s @ p["v"].T).unflatten(-1, (2, 5))
    weights = torch.einsum("ntgqd,nugd->ngqtu", q, k).softmax(-1)
    mixed = torch.einsum("ngqtu,nugv->ntgqv", weights, v).flatten(-3)
    return (s + mixed @ p["o"].T) @ p["e"].T


def _groups(p: State, x: Tensor) -> Tensor:
    h = torch.relu(torch.einsum("oi,nil->nol", p["first"], x))
    h = torch.relu(F.conv1d(h, p["grouped"], groups=3))
    return h.mean(2) @ p["last"].T


def _experts(p: State, x: Tensor) -> Tensor:
    s = x @ p["in"].T
    outs = [torch.relu(s @ p[f"experts.{e}.up"].T) @ p[f"experts.{e}.down"].T for e in range(4)]
    gates = (s @ p["router"].T).softmax(-1)
    mixed = torch.stack([gates[:, e, None] * out for e, out in enumerate(outs)]).sum(0)
    return (s + mixed) @ p["in"]


def _recurrent(p: State, x: Tensor) -> Tensor:
    """An LSTM over x (N, steps, 5)."""
    h = c = x.new_zeros(len(x), 8)
    for step in range(x.shape[1]):
        i, f, g, o = (x[:, step] @ p["ih"].T + h @ p["hh"].T + p["bias"]).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return h @ p["out"].T


def _tied(p: State, x: Tensor) -> Tensor:
    return torch.relu((x @ p["embed"]) @ p["dense"].T + p["bias"]) @ p["embed"].T


_FORWARD: Mapping[str, tuple[Callable[[State, Tensor], Tensor], tuple[int, ...]]] = {
    "chain": (_chain, (5,)),
    "residual": (_residual, (6,)),
    "flatten": (_flatten, (3, 3, 3)),
    "concatenation": (_concatenation, (5,)),
    "heads": (_heads, (4, 9)),
    "groups": (_groups, (5, 6)),
    "experts": (_experts, (5,)),
    "recurrent": (_recurrent, (3, 5)),
    "tied": (_tied, (9,)),
}


def tiny_forward(name: str, state: State, x: Tensor) -> Tensor:
    """What a network answers, written without any of our code; logits on the last axis."""
    return _FORWARD[name][0](state, x)


def tiny_inputs(name: str, seed: int = 0) -> Tensor:
    """Random float64 inputs of one of the networks."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(20, *_FORWARD[name][1], generator=generator, dtype=torch.float64)


def tiny_layout(name: str, folder: Path) -> Layout:
    """The bound spec of one of the networks."""
    path = folder / f"{name}.yaml"
    path.write_text(TINY[name].text)
    return bind(load_spec(path), TINY[name].shapes)


def tiny_state(name: str, seed: int) -> dict[str, Tensor]:
    """Random float64 tensors of its shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in TINY[name].shapes.items()}
