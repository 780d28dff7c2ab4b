"""Networks of the kinds that people train, small, each with example inputs; none of them has a shipped spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Made = tuple[nn.Module, Any]


def images(channels: int = 3, side: int = 8) -> Tensor:
    return torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(7))


def vectors(width: int, length: int | None = None) -> Tensor:
    shape = (5, width) if length is None else (4, length, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def tokens(vocabulary: int, length: int) -> Tensor:
    return torch.randint(0, vocabulary, (4, length), generator=torch.Generator().manual_seed(7))


class ResidualMlp(nn.Module):
    """Its shapes are those of a chain."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        return self.c(h + F.relu(self.b(h)))


def chain() -> Made:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
        nn.ReLU(),
        nn.Linear(10, 3),
    ), images()


class OptionA(nn.Module):
    """A residual connection that pads with zero channels, as the ResNets for CIFAR have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.bn0 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.conv0(x)))
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))).mean((2, 3)))


class GroupNormOverConcatenation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6)
        self.b, self.m = nn.Conv2d(3, 6, 3), nn.GroupNorm(4, 12)
        self.c, self.fc = nn.Conv2d(12, 10, 3), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.m(torch.cat([F.relu(self.n(self.a(x))), self.b(x)], 1)))
        return self.fc(F.relu(self.c(y)).mean((2, 3)))


class Experts(nn.Module):
    def __init__(self, top: int) -> None:
        super().__init__()
        self.inp, self.out, self.top = nn.Linear(6, 10), nn.Linear(10, 3), top
        self.moe = nn.Module()
        self.moe.router = nn.Linear(10, 4)
        self.moe.experts = nn.ModuleList(nn.Sequential(nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 10)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inp(x))
        chosen = self.moe.router(h)
        if self.top:
            values, places = chosen.topk(self.top, -1)
            chosen = torch.full_like(chosen, float("-inf")).scatter(-1, places, values)
        made = torch.stack([expert(h) for expert in self.moe.experts], -1)
        return self.out(h + (made * chosen.softmax(-1)[:, None, :]).sum(-1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.up, self.c, self.out = nn.ConvTranspose2d(8, 5, 2, 2), nn.Conv2d(11, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        return self.out(F.relu(self.c(torch.cat([a, self.up(F.relu(self.b(a)))], 1))))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.qkv, self.proj = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.ln2, self.fc, self.out = nn.LayerNorm(12), nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (t.view(batch, length, 3, 4).transpose(1, 2) for t in self.qkv(self.ln1(x)).split(width, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, width)
        x = x + self.proj(y)
        return x + self.out(F.gelu(self.fc(self.ln2(x))))


class NanoGpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(11, 12), nn.Embedding(8, 12)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.ln, self.head = nn.LayerNorm(12), nn.Linear(12, 11, bias=False)
        self.head.weight = self.tok.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.tok(x) + self.pos(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.head(self.ln(h))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 3, 14, batch_first=True)
        self.inp, self.layers, self.out = (
            nn.Linear(5, 12),
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(12, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(self.inp(x)).mean(1))


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Conv1d(2, 8, 1), nn.Conv1d(8, 3, 1)
        self.gates = nn.ModuleList(nn.Conv1d(8, 12, 3, padding=1) for _ in range(2))
        self.back = nn.ModuleList(nn.Conv1d(6, 8, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for gate, back in zip(self.gates, self.back, strict=True):
            a, b = gate(x).chunk(2, 1)
            x = x + back(torch.tanh(a) * torch.sigmoid(b))
        return self.out(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(11, 7), nn.Linear(10, 3)
        self.rnn = nn.LSTM(7, 5, 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.embed(x))[0].mean(1))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)
        self.down, self.up = nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3))))))
        return self.out((y * gate[:, :, None, None]).mean((2, 3)))


class PixelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 20, 3, padding=1)
        self.c = nn.Conv2d(5, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(F.pixel_shuffle(self.b(F.relu(self.a(x))), 2)))


NETWORKS: dict[str, Callable[[], Made]] = {
    "residual mlp": lambda: (ResidualMlp(), vectors(6)),
    "chain": chain,
    "option a": lambda: (OptionA(), images()),
    "group norm over a concatenation": lambda: (GroupNormOverConcatenation(), images(side=7)),
    "experts": lambda: (Experts(0), vectors(6)),
    "chosen experts": lambda: (Experts(2), vectors(6)),
    "u-net": lambda: (UNet(), images()),
    "nanogpt": lambda: (NanoGpt(), tokens(11, 8)),
    "encoder": lambda: (Encoder(), vectors(5, 6)),
    "wavenet": lambda: (WaveNet(), vectors(9, 2)),
    "recurrent": lambda: (Recurrent(), tokens(11, 6)),
    "squeeze and excite": lambda: (SqueezeExcite(), images(side=7)),
    "pixel shuffle": lambda: (PixelShuffle(), images(side=6)),
}

# The dims of each, by size; a dim within another has one permutation for each of its units.
GROUPS = {
    "residual mlp": {"12": 1},
    "chain": {"2": 1, "3 in 2": 1, "4 in 2": 1, "10": 1},
    "option a": {"4": 1, "2": 2, "8": 1},
    "group norm over a concatenation": {"2": 3, "3 in 2": 1, "10": 1},
    "experts": {"10": 1, "4": 1, "7 in 4": 1},
    "chosen experts": {"10": 1, "4": 1, "7 in 4": 1},
    "u-net": {"6": 2, "8": 1, "5": 1},
    "nanogpt": {"12": 1, "3": 2, "4 in 3": 4, "20": 2},
    "encoder": {"12": 1, "3": 2, "4 in 3": 4, "14": 2},
    "wavenet": {"8": 1, "6": 2},
    "recurrent": {"7": 1, "5": 4},
    "squeeze and excite": {"8": 1, "4": 1},
    "pixel shuffle": {"6": 1, "5": 1},
}
