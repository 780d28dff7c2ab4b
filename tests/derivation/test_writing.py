"""The text of derived specs binds to the network that it was derived from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rebasin_cli.derivation.derive import derive
from rebasin_cli.derivation.expressions import Chain, Moving, Nest
from rebasin_cli.derivation.fixing import with_fixed_owners
from rebasin_cli.derivation.wiring import Wiring
from tests.derivation.networks import vectors
from tests.derivation.networks_attention import NETWORKS


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


class Stages(nn.Module):
    """Two stages of two residual layers, each with a stream of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stages, self.out = nn.ModuleList(), nn.Linear(8, 2)
        for inner, outer in ((6, 7), (7, 8), (8, 8)):
            layers = nn.ModuleList(
                nn.ModuleDict({"up": nn.Linear(outer, 9), "down": nn.Linear(9, outer)}) for _ in "ab"
            )
            self.stages.append(nn.ModuleDict({"widen": nn.Linear(inner, outer), "layers": layers}))

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage["widen"](x)
            for layer in stage["layers"]:
                x = x + layer["down"](torch.tanh(layer["up"](x)))
        return self.out(x)


def test_the_streams_of_stages_are_numbered() -> None:
    torch.manual_seed(0)
    text = derive(Stages(), vectors(6).double()).text
    assert "stages.{i}.layers.{j}.up.weight: up.{i}.{j} stages.{i}" in text
    assert "stages.{i}.layers.{j}.down.weight: stages.{i} up.{i}.{j}" in text
    assert "stages.{i}.widen.weight: stages.{i} stages.{i-1}" in text


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


def test_heads_that_stay_are_one_fixed_dim() -> None:
    """Not as many dims as there are heads: the spec holds for any number of them."""
    torch.manual_seed(0)
    text = derive(*NETWORKS["sloped heads"]()).text
    assert "  head: fixed because the network tells them apart" in text
    assert "  qk: within head" in text
    assert "qkv.weight: (head (2 qk) + v) inp" in text
    assert "proj.weight: inp (head v)" in text


def test_fused_dims_are_split_where_one_of_them_stands_alone() -> None:
    """As queries, keys and values of heads that stay, of one size."""
    q, v = (tuple(Moving(move, 4) for move in moves) for moves in ((1, 2, 3), (4, 5, 6)))
    expressions = {("qkv", 0): Chain((*q, *q, *v)), ("out", 0): Chain(v)}
    wiring = with_fixed_owners(Wiring({"qkv": (36,), "out": (12,)}, expressions))
    (head,) = wiring.fixed
    blocks = [Nest((Moving(head, 3), Moving(move, 4))) for move in (1, 1, 4)]
    assert wiring.expressions == {("qkv", 0): Chain(tuple(blocks)), ("out", 0): blocks[2]}
    assert wiring.owners == {1: head, 4: head}


def test_dims_that_stand_alone_somewhere_have_no_owner() -> None:
    """As the parts of a concatenation."""
    parts = tuple(Moving(move, 4) for move in (1, 2, 3))
    expressions = {("cat", 0): Chain(parts), ("one", 0): parts[0]}
    wiring = Wiring({"cat": (12,), "one": (4,)}, expressions)
    assert with_fixed_owners(wiring) == wiring
