"""Networks with several inputs or outputs, on graphs, of raw parameters, and with unusual code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.derivation.networks import Made, tokens, vectors


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(8))


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 9), nn.Tanh())
        self.actor = nn.Sequential(nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3))
        self.critic = nn.Sequential(nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.actor(h), self.critic(h)


class Gcn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 10), nn.Linear(10, 8), nn.Linear(8, 3)

    def forward(self, features: Tensor, adjacency: Tensor) -> Tensor:
        h = F.relu(adjacency @ self.a(features))
        return self.out(F.relu(adjacency @ self.b(h)).sum(1))


class MessagePassing(nn.Module):
    """Nodes and edges of one graph; messages are added up by the number of their node."""

    def __init__(self) -> None:
        super().__init__()
        self.node, self.first, self.second = nn.Linear(5, 8), nn.Linear(19, 10), nn.Linear(10, 9)
        self.update, self.out = nn.GRUCell(9, 8), nn.Linear(8, 3)

    def forward(self, nodes: Tensor, edges: Tensor, ends: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(self.node(nodes))
        for _ in range(2):
            pairs = torch.cat([h[ends[:, 0]], h[ends[:, 1]], edges], -1)
            messages = self.second(F.relu(self.first(pairs)))
            h = self.update(torch.zeros(len(h), 9).index_add(0, ends[:, 1], messages), h)
        return {"nodes": self.out(h)}


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(5, 7, 2, batch_first=True), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


class Glu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(6, 20), nn.Linear(10, 9), nn.Linear(10, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.glu(self.a(x), -1)
        return self.out(F.gelu(self.b(h)) * self.c(h))


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)
        self.bias1, self.bias2 = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.sigmoid(self.b(torch.sigmoid(self.a(x))))
        h = torch.sigmoid(F.linear(code, self.b.weight.t(), self.bias1))
        return F.linear(h, self.a.weight.t(), self.bias2)


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.mixed, self.out = (
            nn.Linear(4, 5), nn.Linear(4, 6), nn.Bilinear(5, 6, 7), nn.Linear(7, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mixed(torch.tanh(self.a(x)), torch.tanh(self.b(x)))))


def parametrized() -> Made:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 10)),
        nn.PReLU(10),
        parametrizations.spectral_norm(nn.Linear(10, 9)),
        nn.PReLU(),
        nn.Linear(9, 3),
    ), vectors(6)


class Maxout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(6, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).view(-1, 8, 3).max(-1).values)


@dataclass
class Coded:
    """What an encoder and its decoder give."""

    rebuilt: Tensor
    mean: Tensor
    spread: Tensor


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mean, self.spread = nn.Linear(6, 10), nn.Linear(10, 4), nn.Linear(10, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 6))

    def forward(self, x: Tensor) -> Coded:
        h = F.relu(self.encoder(x))
        mean, spread = self.mean(h), self.spread(h).exp()
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return Coded(self.decoder(mean + spread * noise), mean, spread)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8))
        self.out = nn.Linear(8, 2)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        return self.out((self.trunk(one) - self.trunk(two)).abs())


class Named(nn.Module):
    """A dict comes in whole and a nested one goes out."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item, self.tower = nn.Embedding(7, 6), nn.Embedding(7, 5), nn.Linear(14, 9)
        self.out = nn.ModuleDict({"click": nn.Linear(9, 2), "buy": nn.Linear(9, 1)})

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        read = [self.user(batch["user"][:, 0]), self.item(batch["item"][:, 0]), batch["context"]]
        h = F.leaky_relu(self.tower(torch.cat(read, -1)))
        return {"scores": {name: part(h) for name, part in self.out.items()}, "count": len(h)}


class _Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * s * (1 + x * (1 - s))


class OwnFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 10), nn.Linear(10, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(_Swish.apply(self.b(_Swish.apply(self.a(x)))))


class Fourier(nn.Module):
    """Complex weights for every frequency, as in a neural operator."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.skip, self.out = nn.Conv1d(2, 6, 1), nn.Conv1d(6, 7, 1), nn.Conv1d(7, 2, 1)
        self.modes = nn.Parameter(torch.randn(6, 7, 3, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        low = torch.einsum("bik,iok->bok", torch.fft.rfft(x)[..., :3], self.modes)
        mixed = torch.fft.irfft(low, n=x.shape[-1])
        return self.out(F.gelu(mixed + self.skip(x)))


class InPlace(nn.Module):
    """Four units are scaled in place, so that they are no longer like the other six."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        F.relu(h, inplace=True)
        h.add_(0.1)
        h[:, :4] *= 0.5
        h.mul_(2.0)
        return self.out(h)


class StackedExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.out = nn.Linear(6, 4), nn.Linear(5, 3)
        self.first, self.bias = nn.Parameter(torch.randn(4, 6, 7)), nn.Parameter(torch.zeros(4, 7))
        self.second = nn.Parameter(torch.randn(4, 7, 5))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(torch.einsum("bi,eih->beh", x, self.first) + self.bias)
        made = torch.einsum("beh,eho->beo", h, self.second)
        return self.out(torch.tanh((made * self.gate(x).softmax(-1)[..., None]).sum(1)))


class HyperNetwork(nn.Module):
    """A network writes the matrix of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.hidden, self.made = nn.Parameter(torch.randn(5)), nn.Linear(5, 9), nn.Linear(9, 56)
        self.inp, self.out = nn.Linear(4, 8), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.made(torch.tanh(self.hidden(self.code))).view(7, 8)
        return self.out(torch.tanh(F.linear(torch.tanh(self.inp(x)), weight)))


class UnusedBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(6, 10), nn.Linear(10, 3)
        self.auxiliary = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        if self.training:
            return self.auxiliary(h)
        return self.out(h)


def graph() -> dict[str, Tensor]:
    ends = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0], [1, 4], [3, 0], [2, 0]])
    return {"nodes": vectors(5), "edges": drawn(8, 3), "ends": ends}


NETWORKS: dict[str, Callable[[], Made]] = {
    "actor and critic": lambda: (ActorCritic(), vectors(4)),
    "gcn": lambda: (Gcn(), (vectors(6, 5), drawn(4, 5, 5))),
    "message passing": lambda: (MessagePassing(), graph()),
    "gru": lambda: (Gru(), vectors(5, 6)),
    "glu": lambda: (Glu(), vectors(6)),
    "tied autoencoder": lambda: (TiedAutoencoder(), vectors(6)),
    "bilinear": lambda: (Bilinear(), vectors(4)),
    "parametrized": parametrized,
    "maxout": lambda: (Maxout(), vectors(6)),
    "vae": lambda: (Vae(), vectors(6)),
    "siamese": lambda: (Siamese(), (vectors(6), drawn(5, 6))),
    "named": lambda: (Named(), {"user": tokens(7, 1), "item": tokens(7, 1), "context": drawn(4, 3)}),
    "own function": lambda: (OwnFunction(), vectors(6)),
    "fourier": lambda: (Fourier(), vectors(9, 2)),
    "in place": lambda: (InPlace(), vectors(6)),
    "stacked experts": lambda: (StackedExperts(), vectors(6)),
    "hypernetwork": lambda: (HyperNetwork(), vectors(4)),
    "unused branch": lambda: (UnusedBranch(), vectors(6)),
}

GROUPS = {
    "actor and critic": {"10": 1, "9": 1, "7": 1, "6": 1},
    "gcn": {"10": 1, "8": 1},
    "message passing": {"8": 1, "10": 1, "9": 1},
    "gru": {"7": 2},
    "glu": {"10": 1, "9": 1},
    "tied autoencoder": {"8": 1, "4": 1},
    "bilinear": {"5": 1, "6": 1, "7": 1},
    "parametrized": {"10": 1, "9": 1},
    "maxout": {"8": 1, "3 in 8": 1},
    "vae": {"10": 1, "9": 1},
    "siamese": {"10": 1, "8": 1},
    "named": {"6": 1, "5": 1, "9": 1},
    "own function": {"10": 1, "8": 1},
    "fourier": {"6": 1, "7": 1},
    "in place": {"4": 1, "6": 1},
    "stacked experts": {"4": 1, "7 in 4": 1, "5": 1},
    "hypernetwork": {"5": 1, "9": 1, "7": 1, "8": 1},
    "unused branch": {"10": 1},
}
