"""Units that show late, or in part, what they move with."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebasin_cli.derivation.borrowing import borrowed
from rebasin_cli.derivation.candidate import candidate
from rebasin_cli.derivation.derive import derive
from rebasin_cli.derivation.expressions import Chain, Moving, Nest, Still, alone_in
from rebasin_cli.derivation.passes import Network
from rebasin_cli.derivation.soundness import sound_judge
from rebasin_cli.derivation.unsaid import unsaid
from rebasin_cli.evaluation.running import in_dtype
from tests.derivation.networks import tokens, vectors


class Attention(nn.Module):
    """One layer of attention in a residual stream, its heads of four, with a LayerNorm before."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, width = heads, 4 * heads
        self.tok, self.ln, self.ln2 = nn.Embedding(11, width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.o, self.out = nn.Linear(width, width), nn.Linear(width, 11)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tok(x)
        q, k, v = (part(self.ln(h)).view(*x.shape, self.heads, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.placed(q), self.placed(k), v)
        return self.out(self.ln2(h + self.o(y.transpose(1, 2).flatten(2))))

    def placed(self, x: Tensor) -> Tensor:
        return x


class PartlyRotated(Attention):
    """The first half of queries and keys is turned with the position."""

    def placed(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[2], dtype=x.dtype)
        a, b, rest = x[..., 0], x[..., 1], x[..., 2:]
        turned = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
        return torch.cat([torch.stack(turned, -1), rest], -1)


class NormedKeys(PartlyRotated):
    """Keys have a LayerNorm, which all heads share."""

    def __init__(self, heads: int) -> None:
        super().__init__(heads)
        self.k = nn.Sequential(self.k, nn.Unflatten(-1, (heads, 4)), nn.LayerNorm(4))


class ChannelAttention(nn.Module):
    """Attention between the channels of three heads: queries show nothing while the values of a head are alike.

    Args:
        strided: neighbours are of different heads.
    """

    def __init__(self, strided: bool) -> None:
        super().__init__()
        self.strided = strided
        self.inp, self.qkv, self.proj, self.out = nn.Linear(5, 7), nn.Linear(7, 36), nn.Linear(12, 7), nn.Linear(7, 3)
        self.temperature = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        heads = self.qkv(x).reshape(*x.shape[:2], 3, *((4, 3) if self.strided else (3, 4)))
        q, k, v = (heads.mT if self.strided else heads).permute(2, 0, 3, 4, 1)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature
        x = x + self.proj((scores.softmax(-1) @ v).permute(0, 3, 1, 2).flatten(2))
        return self.out(torch.tanh(x)).mean(1)


class TwoHeads(nn.Module):
    """Attention between the channels of two heads, added to what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(7, 24), nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 4, 1)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
        return x + self.proj((scores.softmax(-1) @ v).permute(0, 3, 1, 2).flatten(2))


class Spread(nn.Module):
    """Units of one layer differ by how far apart the units of another are, which is nothing where all are alike."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.fc, self.out = nn.Linear(5, width), nn.Linear(width, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        spread = (h - h.sum(-1, keepdim=True) / h.shape[-1]).square().sum(-1, keepdim=True)
        return self.out(self.fc(h) * (1 + spread * torch.arange(6, dtype=x.dtype).div(3).floor()))


class Steep(nn.Module):
    """Of a layer whose weights are all alike, all units may be far below zero at once."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*widths) for widths in ((5, 6), (6, 7), (7, 8), (8, 3)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(100 * layer(x))
        return self.layers[-1](x)


class Cosine(nn.Module):
    """Heads that compare directions: of vectors whose entries are all alike there are two."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(12, 3)
        self.scale = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).view(*x.shape[:2], 3, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.scale.exp()
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Levels(nn.Module):
    """Two groups of three channels, then two of six: six channels are all of one level and a group of another."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(*widths, 3, 2, 1) for widths in ((3, 6), (6, 12), (12, 12)))
        self.norm, self.out = nn.ModuleList(nn.GroupNorm(2, width) for width in (6, 12, 12)), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for down, norm in zip(self.down, self.norm, strict=True):
            x = F.relu(norm(down(x)))
        return self.out(x)


class Branches(nn.Module):
    """A residual stream with as many branches as a judge must look past."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(3, 5), nn.Linear(5, 2)
        self.a, self.b = (nn.ModuleList(nn.Linear(*widths) for _ in range(45)) for widths in ((5, 4), (4, 5)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for a, b in zip(self.a, self.b, strict=True):
            x = x + 0.1 * b(torch.tanh(a(x)))
        return self.out(x)


def sizes(module: nn.Module, inputs: Tensor) -> list[tuple[int, ...]]:
    derivation = derive(module, in_dtype(inputs, torch.float64))
    assert derivation.holds, derivation.proof.describe()
    layout = derivation.proof.layout
    return sorted((*layout.owner_sizes(dim), layout.dims[dim].size) for dim in layout.moving())


def test_a_bias_of_keys_that_is_half_silent_hides_no_head() -> None:
    torch.manual_seed(0)
    assert sizes(PartlyRotated(3), tokens(11, 6)) == [(3,), (3, 2), (3, 4), (12,)]


def test_a_hidden_part_of_a_norm_moves_with_its_weight() -> None:
    torch.manual_seed(0)
    text = derive(NormedKeys(3), in_dtype(tokens(11, 6), torch.float64)).text
    assert re.search(r"k\.2\.\{weight,bias\}: 2 \+ \w+", text), text


@pytest.mark.parametrize("width", [4, 6])
def test_units_that_are_told_apart_late_hold_nothing_still(width: int) -> None:
    torch.manual_seed(0)
    assert sizes(Spread(width), vectors(5)) == [(3,), (3,), (width,)]


def test_units_that_are_all_far_below_zero_are_heard() -> None:
    torch.manual_seed(0)
    assert sizes(Steep(), vectors(5)) == [(6,), (7,), (8,)]


def test_heads_that_compare_directions_are_found() -> None:
    torch.manual_seed(0)
    assert sizes(Cosine(), vectors(5, 6)) == [(3,), (3, 4), (3, 4)]


@pytest.mark.parametrize("strided", [False, True])
def test_queries_with_heads_and_insides_on_one_axis_are_found(strided: bool) -> None:
    torch.manual_seed(0)
    found = derive(ChannelAttention(strided), torch.randn(4, 6, 5))
    assert found.proof.holds, found.proof.describe()
    assert not found.held
    assert not found.free
    layout = found.proof.layout
    assert sorted((*layout.owner_sizes(dim), layout.dims[dim].size) for dim in layout.moving()) == [
        (3,), (3, 4), (3, 4), (7,),
    ]  # fmt: skip


def test_two_layers_with_such_heads_are_told_apart() -> None:
    """With two heads there is one order but the given one, so that both layers have it."""
    torch.manual_seed(0)
    found = derive(nn.Sequential(TwoHeads(), TwoHeads()), torch.randn(4, 6, 7))
    assert found.proof.holds, found.proof.describe()
    layout = found.proof.layout
    assert sorted((*layout.owner_sizes(dim), layout.dims[dim].size) for dim in layout.moving()) == [
        (2,), (2,), (2, 4), (2, 4), (2, 4), (2, 4),
    ]  # fmt: skip


def test_what_stands_outside_of_its_owner_is_found() -> None:
    """As units that a search found in one axis without the heads that they are within elsewhere."""
    owner, inner = Moving(0, 3), Moving(1, 4)
    assert alone_in(Chain((Still(2), inner)), {1: 0}) == {1}
    assert alone_in(Nest((owner, inner)), {1: 0}) == alone_in(Nest((inner, owner)), {1: 0}) == set()


def test_blocks_of_one_layer_are_not_tried_on_free_units() -> None:
    torch.manual_seed(0)
    assert sizes(Levels(), torch.randn(4, 3, 16, 16)) == [(2,), (2,), (2,), (2, 3), (2, 6), (2, 6)]


def test_a_unit_that_is_held_is_seen_among_many_dims() -> None:
    torch.manual_seed(0)
    module, inputs = Branches(), vectors(3)
    right = derive(module, inputs)
    assert len(right.proof.layout.moving()) == 46
    with borrowed(module):
        judge = sound_judge(Network(module, inputs), 1)
        seen = unsaid(judge, candidate(judge, right.wiring.without({20}), "smaller").layout)
    assert seen.free
    assert not seen.undecided
