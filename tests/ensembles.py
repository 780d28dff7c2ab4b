"""Two published ensembles that ship in wheels: their members' weights, and networks that these are run in.

`admet-ai` has five message-passing networks over molecules (Chemprop) for each of two tasks; `torchani` has eight
sets of networks for the energies of atoms (ANI-1x). The packages are not imported: only their files are read.
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ATOMS, BONDS = 72, 14  # features of each
ELEMENTS = ("H", "C", "N", "O")
_AEV = 384  # numbers that describe an atom's surroundings


def folder_of(package: str) -> Path | None:
    """Where a package lies; None if it is not installed."""
    found = find_spec(package)
    places = found.submodule_search_locations if found else None
    return Path(next(iter(places))) if places else None


MOLECULES = """
name: chemprop
title: directed message passing over molecules (Chemprop)
tensors:
  message_passing.W_i.weight: h _
  message_passing.W_h.weight: h h
  message_passing.W_o.weight: out _:72 + h
  message_passing.W_o.bias: out
  predictor.ffn.0.0.weight: ffn out
  predictor.ffn.0.0.bias: ffn
  predictor.ffn.1.2.weight: _ ffn
  predictor.ffn.1.2.bias: _
ignored:
  - predictor.criterion.task_weights?
  - metrics.{i}.task_weights?
"""


def molecules(package: Path, task: str = "classification") -> list[Path]:
    """The members of one of Chemprop's ensembles, as they ship."""
    return sorted((package / "resources" / "models" / f"admet_{task}").glob("model_*.pt"))


class Molecules(nn.Module):
    """Chemprop's network by the names that it saves, on one graph: a ring of six atoms with two more on it.

    Messages go along directed bonds; each is made of what reaches its beginning, without its own reverse.
    """

    def __init__(self, tasks: int = 31, width: int = 300, depth: int = 3) -> None:
        super().__init__()
        bonds = [(i, (i + 1) % 6) for i in range(6)] + [(0, 6), (3, 7)]
        self.graph = [*bonds, *((j, i) for i, j in bonds)]
        self.atoms, self.depth = 8, depth
        self.message_passing = nn.ModuleDict({
            "W_i": nn.Linear(ATOMS + BONDS, width, bias=False), "W_h": nn.Linear(width, width, bias=False),
            "W_o": nn.Linear(ATOMS + width, width),
        })  # fmt: skip
        first = nn.Sequential(nn.Linear(width, width))
        last = nn.Sequential(nn.ReLU(), nn.Dropout(0.0), nn.Linear(width, tasks))
        self.predictor = nn.ModuleDict({"ffn": nn.Sequential(first, last)})

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, atoms · 72 + directed bonds · 14) → (batch, tasks)."""
        count = len(self.graph)
        atoms = x[:, : self.atoms * ATOMS].unflatten(1, (self.atoms, ATOMS))
        bonds = x[:, self.atoms * ATOMS :].unflatten(1, (count, BONDS))
        source, target = (torch.tensor(ends) for ends in zip(*self.graph, strict=True))
        passing = self.message_passing
        first = passing["W_i"](torch.cat([atoms[:, source], bonds], 2))  # (batch, bonds, width)
        hidden = first.relu()
        for _ in range(self.depth - 1):
            reached = self._sums(hidden, target)
            back = hidden.roll(count // 2, 1)  # the reverse of each bond stands half the list away
            hidden = (first + passing["W_h"](reached[:, source] - back)).relu()
        out = passing["W_o"](torch.cat([atoms, self._sums(hidden, target)], 2)).relu()
        found: Tensor = self.predictor["ffn"](out.mean(1))
        return found

    def _sums(self, hidden: Tensor, target: Tensor) -> Tensor:
        return hidden.new_zeros(len(hidden), self.atoms, hidden.shape[2]).index_add(1, target, hidden)


def molecule_inputs(count: int, seed: int = 0) -> Tensor:
    """Sparse features of ones and zeros, as those of molecules are."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 8 * ATOMS + 16 * BONDS, generator=generator) < 0.1).float()


def molecule_network() -> tuple[nn.Module, Tensor]:
    """For `--network`."""
    return Molecules(), molecule_inputs(4)


def energies(package: Path) -> list[dict[str, Tensor]]:
    """The members of ANI-1x: `H.0.weight`, `H.0.bias`, `H.2.weight`, … of each element, float32."""
    members = []
    for folder in sorted((package / "resources" / "ani-1x_8x").glob("train*")):
        state: dict[str, Tensor] = {}
        for element in ELEMENTS:
            name = str(folder / "networks" / f"ANN-{element}.nnf-l")
            biases = [np.fromfile(f"{name}{layer}.bparam", "<f4") for layer in range(1, 5)]
            widths = [_AEV, *map(len, biases)]
            for layer, (before, after) in enumerate(pairwise(widths)):
                weight = np.fromfile(f"{name}{layer + 1}.wparam", "<f4").reshape(after, before)
                state[f"{element}.{2 * layer}.weight"] = torch.from_numpy(weight)
                state[f"{element}.{2 * layer}.bias"] = torch.from_numpy(biases[layer])
        members.append(state)
    return members


ENERGIES = """
name: ani
title: networks for the energies of atoms, one for each element
tensors:
  "{element}.{i}.weight": h.{element}.{i} h.{element}.{prev i}
  "{element}.{i}.bias": h.{element}.{i}
dims:
  h.{element}.{last i}: fixed
"""
