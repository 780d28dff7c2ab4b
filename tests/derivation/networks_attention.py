"""Networks that attend: encoders, decoders, rotary and grouped queries, experts in two layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.derivation.networks import Made, tokens, vectors


class NormFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 3, 14, batch_first=True, norm_first=True, activation="gelu")
        self.inp, self.out = nn.Linear(5, 12), nn.Linear(12, 3)
        self.layers = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(12), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(self.inp(x)))


class Decoder(nn.Module):
    """Self and cross attention; one matrix reads both streams, so both are one dim."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.memory, self.out = nn.Embedding(11, 12), nn.Linear(5, 12), nn.Linear(12, 7)
        self.layers = nn.TransformerDecoder(nn.TransformerDecoderLayer(12, 3, 14, batch_first=True), 1)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.out(self.layers(self.embed(x), self.memory(memory), tgt_mask=mask, tgt_is_causal=True))


class EncoderDecoder(nn.Module):
    """Source and target share one embedding, which is the output layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 12), nn.Linear(12, 11, bias=False)
        self.body = nn.Transformer(12, 3, 1, 1, 14, batch_first=True)
        self.head.weight = self.embed.weight

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.body(self.embed(source), self.embed(target)))


class RmsNorm(nn.Module):
    """As language models write it: computed in float32, cast back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def rotated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] / 10 ** (torch.arange(half) / half)
    one, two = x[..., :half], x[..., half:]
    return torch.cat([one * angles.cos() - two * angles.sin(), two * angles.cos() + one * angles.sin()], -1)


class GroupedRotary(nn.Module):
    """Six heads of four share two pairs of keys and values; a gated feed-forward in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(11, 10), nn.Linear(10, 5)
        self.q, self.kv, self.o = nn.Linear(10, 24, bias=False), nn.Linear(10, 16), nn.Linear(24, 10)
        self.norm1, self.norm2 = RmsNorm(10), RmsNorm(10)
        self.up, self.down = nn.Linear(10, 26), nn.Linear(13, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        batch, length = x.shape
        y = self.norm1(h)
        q = self.q(y).view(batch, length, 6, 4).transpose(1, 2)
        k, v = (t.view(batch, length, 2, 4).transpose(1, 2) for t in self.kv(y).chunk(2, -1))
        k, v = rotated(k).repeat_interleave(3, 1), v.repeat_interleave(3, 1)
        scores = (rotated(q) @ k.transpose(-1, -2) / 2).softmax(-1)
        h = h + self.o((scores @ v).transpose(1, 2).reshape(batch, length, 24))
        gate, up = self.up(self.norm2(h)).chunk(2, -1)
        return self.out(h + self.down(F.silu(gate) * up))


class FusedHeads(nn.Module):
    """Three heads, each with its queries, keys and values in turn; a third of queries and keys is rotated."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(11, 10), nn.Linear(10, 5)
        self.qkv, self.o = nn.Linear(10, 54), nn.Linear(18, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        q, k, v = self.qkv(h).view(*x.shape, 3, 18).transpose(1, 2).chunk(3, -1)
        q, k = (torch.cat([rotated(part[..., :2]), part[..., 2:]], -1) for part in (q, k))
        y = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        return self.out(h + self.o(y.transpose(1, 2).flatten(2)))


class OtherWidths(nn.Module):
    """Queries, keys and values of three widths."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 12), nn.Linear(4, 5), nn.Linear(4, 6)
        self.attend, self.out = nn.MultiheadAttention(12, 3, kdim=5, vdim=6, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(self.q(x), self.k(x), self.v(x))[0])


class MixtureBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(10), nn.LayerNorm(10)
        self.attend, self.router = nn.MultiheadAttention(10, 2, batch_first=True), nn.Linear(10, 4, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(10, 7), nn.SiLU(), nn.Linear(7, 10)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        y = self.norm2(x)
        weights, chosen = self.router(y).softmax(-1).topk(2, -1)
        made = torch.zeros_like(y)
        for number, expert in enumerate(self.experts):
            row, column, place = torch.where(chosen == number)
            made.index_put_((row, column), weights[row, column, place, None] * expert(y[row, column]), accumulate=True)
        return x + made


class Mixture(nn.Module):
    """Two layers, of which each token takes two of four experts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(11, 10), nn.Linear(10, 5)
        self.layers = nn.ModuleList(MixtureBlock() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for layer in self.layers:
            h = layer(h)
        return self.out(h)


class LstmWithAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(11, 6), nn.LSTM(6, 7, batch_first=True)
        self.query, self.score, self.out = nn.Linear(7, 5), nn.Linear(5, 1, bias=False), nn.Linear(7, 3)
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.rnn(self.embed(x))
        weights = (self.score(torch.tanh(self.query(h))) / self.temperature).softmax(1)
        return self.out((weights * h).sum(1))


class Sinusoidal(nn.Module):
    """A table that the code makes and the state dict holds is added to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(11, 10), nn.Linear(10, 4)
        angles = torch.arange(8)[:, None] / 50 ** (torch.arange(5) / 5)
        self.register_buffer("table", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
        self.fc, self.back = nn.Linear(10, 9), nn.Linear(9, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) * math.sqrt(10) + self.table[: x.shape[1]]
        return self.out((h + self.back(torch.tanh(self.fc(h)))).mean(1))


class PlacesWithoutGradient(nn.Module):
    """Positions are a parameter that the code reads where it asks for no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places, self.out = nn.Embedding(11, 10), nn.Embedding(8, 10), nn.Linear(10, 4)
        self.fc, self.back = nn.Linear(10, 9), nn.Linear(9, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            places = self.places(torch.arange(x.shape[1]))
        h = self.embed(x) + places
        return self.out((h + self.back(torch.tanh(self.fc(h)))).mean(1))


class Perceiver(nn.Module):
    """Learned queries are alike: they may be permuted, as the outputs are their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(5, 8))
        self.inp, self.out = nn.Linear(3, 8), nn.Linear(8, 2)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        latents = self.latents.expand(x.shape[0], -1, -1)
        return self.out((latents + self.attend(latents, x, x)[0]).tanh().mean(1))


class Sloped(nn.Module):
    """Heads with a slope each, as ALiBi has them: they stay, and what is in each of them moves."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(5, 10), nn.Linear(10, 3)
        self.qkv, self.proj = nn.Linear(10, 36), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 12).transpose(1, 2).chunk(3, -1)
        apart = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        bias = -apart.abs() * torch.tensor([0.5, 0.25, 0.125])[:, None, None]
        return self.out(torch.tanh(x + self.proj(((q @ k.mT + bias).softmax(-1) @ v).transpose(1, 2).flatten(2))))


NETWORKS: dict[str, Callable[[], Made]] = {
    "sloped heads": lambda: (Sloped(), vectors(5, 6)),
    "norm first": lambda: (NormFirst(), vectors(5, 6)),
    "decoder": lambda: (Decoder(), (tokens(11, 6), vectors(5, 4))),
    "encoder and decoder": lambda: (EncoderDecoder(), {"source": tokens(11, 6), "target": tokens(11, 5)}),
    "grouped rotary": lambda: (GroupedRotary(), tokens(11, 7)),
    "fused heads": lambda: (FusedHeads(), tokens(11, 7)),
    "other widths": lambda: (OtherWidths(), vectors(4, 6)),
    "mixture": lambda: (Mixture(), tokens(11, 6)),
    "lstm with attention": lambda: (LstmWithAttention(), tokens(11, 6)),
    "sinusoidal": lambda: (Sinusoidal(), tokens(11, 8)),
    "places without gradient": lambda: (PlacesWithoutGradient(), tokens(11, 8)),
    "perceiver": lambda: (Perceiver(), vectors(3, 6)),
}

GROUPS = {
    "sloped heads": {"10": 1, "4 in 3": 2},
    "norm first": {"12": 1, "3": 2, "4 in 3": 4, "14": 2},
    "decoder": {"12": 1, "3": 2, "4 in 3": 4, "14": 1},
    "encoder and decoder": {"12": 1, "3": 3, "4 in 3": 6, "14": 2},
    "grouped rotary": {"10": 1, "2": 1, "3 in 2": 1, "4 in 2": 1, "13": 1},
    "fused heads": {"10": 1, "3": 1, "4 in 3": 1, "6 in 3": 1},
    "other widths": {"12": 2, "5": 1, "6": 1, "3": 1, "4 in 3": 2},
    "mixture": {"10": 1, "2": 2, "5 in 2": 4, "4": 2, "7 in 4": 2},
    "lstm with attention": {"6": 1, "7": 1, "5": 1},
    "sinusoidal": {"10": 1, "9": 1},
    "places without gradient": {"10": 1, "9": 1},
    "perceiver": {"8": 1, "2": 1, "4 in 2": 2, "5": 1},
}
