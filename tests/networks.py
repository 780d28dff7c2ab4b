"""A table of tiny networks: a spec, a state of random float64 tensors, and what it must keep. Shared by the tests.

They stand for the hard shapes of the language: chains, residual streams, flattening, concatenation, heads with
insides, groups across two axes, units in the key, and dims on two sides of one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rebasin_cli.spec import Layout, bind, load_spec


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
}


def tiny_layout(name: str, folder: Path) -> Layout:
    """The bound spec of one of the networks."""
    path = folder / f"{name}.yaml"
    path.write_text(TINY[name].text)
    return bind(load_spec(path), TINY[name].shapes)


def tiny_state(name: str, seed: int) -> dict[str, Tensor]:
    """Random float64 tensors of its shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in TINY[name].shapes.items()}
