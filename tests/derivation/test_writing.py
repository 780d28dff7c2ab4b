"""The text of derived specs binds to the network that it was derived from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rebasin_cli.derivation.derive import derive
from tests.derivation.networks import vectors


class SomeBiases(nn.Module):
    """Numbered layers of which every second has no bias, and the last no normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for at in range(4):
            layer = nn.Module()
            layer.linear, layer.norm = nn.Linear(6, 6, bias=at % 2 == 0), nn.LayerNorm(6) if at < 2 else nn.Identity()
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer.norm(layer.linear(x)))
        return x


def test_a_line_may_be_lacking_in_some_layers() -> None:
    torch.manual_seed(0)
    found = derive(SomeBiases(), vectors(6).double())
    assert found.holds, found.proof.describe()
    assert len(found.proof.layout.moving()) == 3
    assert "layers.{i}.linear.bias?" in found.text


class LastDropsIts(nn.Module):
    """Numbered layers of two branches, of which the last has one that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Linear(6, 6)}) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            x, y = torch.tanh(layer["a"](x + y)), torch.tanh(layer["b"](y))
        return x


def test_a_layer_that_nothing_reads_is_ignored_alone() -> None:
    torch.manual_seed(0)
    found = derive(LastDropsIts(), vectors(6).double())
    assert found.holds, found.proof.describe()
    assert "\n  - layers.2.b.weight" in found.text
    assert found.proof.layout.moving()


class Flagged(nn.Module):
    """Its forward takes a flag beside its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, squash: bool) -> Tensor:
        return self.b(torch.tanh(self.a(x)) if squash else self.a(x))


def test_inputs_may_hold_what_is_no_tensor() -> None:
    torch.manual_seed(0)
    found = derive(Flagged(), {"x": vectors(6).double(), "squash": True})
    assert found.holds, found.proof.describe()
    assert "axis 1: inputs" in found.text
