"""Networks in which units show what they are only once others are told apart, or that no gradient reaches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.derivation.networks import Made, images, vectors
from tests.derivation.networks_others import drawn


class MixtureDensity(nn.Module):
    """The likelihood of a mixture: nothing tells of its weights while its components are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.weights = nn.Linear(4, 12), nn.Linear(12, 5)
        self.means, self.spreads = nn.Linear(12, 10), nn.Linear(12, 10)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = torch.tanh(self.hidden(x))
        means, spreads = self.means(h).view(-1, 5, 2), F.softplus(self.spreads(h)).view(-1, 5, 2)
        likely = (-0.5 * ((y[:, None] - means) / spreads).square() - spreads.log()).sum(-1)
        return torch.logsumexp(self.weights(h).log_softmax(-1) + likely, -1)


class VectorQuantised(nn.Module):
    """The nearest row of a codebook, with the gradient of what it stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.code = nn.Conv2d(3, 6, 3, 2, 1), nn.Embedding(10, 6)
        self.decoder = nn.Sequential(nn.Conv2d(6, 7, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(7, 3, 4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x).permute(0, 2, 3, 1)
        apart = (z[..., None, :] - self.code.weight).square().sum(-1)
        chosen = self.code(apart.argmin(-1))
        return self.decoder((z + (chosen - z).detach()).permute(0, 3, 1, 2))


class SetAttention(nn.Module):
    """A set reads learned points, which read it: heads show only where the points differ."""

    def __init__(self) -> None:
        super().__init__()
        self.points, self.out = nn.Parameter(torch.randn(4, 6)), nn.Linear(6, 3)
        self.inp, self.first, self.second = nn.Linear(4, 6), Reading(), Reading()

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        return self.out(self.second(x, self.first(self.points.expand(len(x), -1, -1), x)))


class Reading(nn.Module):
    """Three heads of two; what reads is added to what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, reader: Tensor, x: Tensor) -> Tensor:
        q, k, v = (torch.cat(part.split(2, 2), 0) for part in (self.q(reader), self.k(x), self.v(x)))
        read = q + (q @ k.mT / 6**0.5).softmax(2) @ v
        return self.norm(torch.cat(read.split(len(x), 0), 2))


class Detector(nn.Module):
    """Boxes beside logits: both are answers."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.classes = nn.Linear(6, 10), nn.Linear(10, 4)
        self.boxes = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = F.relu(self.trunk(x))
        return {"logits": self.classes(h), "boxes": self.boxes(h).sigmoid(), "hidden_states": h}


class Glow(nn.Module):
    """A flow with a matrix that mixes its inputs, whose determinant counts, and a coupling layer."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.linalg.qr(torch.randn(4, 4))[0])
        self.coupling = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one, two = (x @ torch.linalg.inv(self.mixing)).chunk(2, -1)
        scale, shift = self.coupling(one).chunk(2, -1)
        scale = torch.sigmoid(scale + 2)
        return torch.cat([one, two * scale + shift], -1), scale.log().sum(-1) - torch.linalg.slogdet(self.mixing)[1]


class MaskedConv(nn.Conv2d):
    """Sees what is above and to the left; its mask and the offsets are in its state dict."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__(ins, outs, 3, padding=1)
        mask = torch.ones_like(self.weight)
        mask[:, :, 1, 1:], mask[:, :, 2] = 0, 0
        self.register_buffer("mask", mask)
        self.register_buffer("seen", torch.nonzero(mask[0, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class Splines(nn.Module):
    """A layer of a Kolmogorov-Arnold network: a spline for every input and output, on knots that must be in order."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-2.2, 2.2, 12).expand(ins, -1).contiguous())
        self.base, self.spline = nn.Parameter(torch.randn(outs, ins)), nn.Parameter(torch.randn(outs, ins, 8))

    def forward(self, x: Tensor) -> Tensor:
        grid, x = self.grid, x[..., None]
        bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for k in range(1, 4):
            left = (x - grid[:, : -k - 1]) / (grid[:, k:-1] - grid[:, : -k - 1])
            right = (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:-k])
            bases = left * bases[..., :-1] + right * bases[..., 1:]
        return F.silu(x[..., 0]) @ self.base.T + torch.einsum("bik,oik->bo", bases, self.spline)


class Turned(nn.Module):
    """Features turned by a matrix that is made from them, near the identity (PointNet): one dim on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(4, 5), nn.Linear(5, 3)
        self.turn = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 25))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.inp(x))
        turn = self.turn(x.mean(1)).view(-1, 5, 5) + torch.eye(5)
        return self.out(torch.tanh(x @ turn)).mean(1)


class Mamba(nn.Module):
    """A selective scan by hand. With units alike, what writes into the states and what reads them are one."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.in_proj = nn.Linear(4, 6), nn.Linear(6, 20, bias=False)
        self.conv1d = nn.Conv1d(10, 10, 3, groups=10, padding=2)
        self.x_proj, self.dt_proj = nn.Linear(10, 3 + 2 * 5, bias=False), nn.Linear(3, 10)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, 6.0).repeat(10, 1)))
        self.D = nn.Parameter(torch.ones(10))
        self.out_proj, self.out = nn.Linear(10, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.inp(x))
        hidden, gate = self.in_proj(x).chunk(2, -1)
        hidden = F.silu(self.conv1d(hidden.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        step, write, read = self.x_proj(hidden).split([3, 5, 5], -1)
        step, decay = F.softplus(self.dt_proj(step)), -torch.exp(self.A_log)
        state, found = hidden.new_zeros(len(x), 10, 5), []
        for t in range(x.shape[1]):
            written = (step[:, t] * hidden[:, t])[..., None] * write[:, t, None]
            state = torch.exp(step[:, t, :, None] * decay) * state + written
            found.append((state * read[:, t, None]).sum(-1))
        scanned = torch.stack(found, 1) + hidden * self.D
        return self.out(x + self.out_proj(scanned * F.silu(gate)))


class Ensemble(nn.Module):
    """Members in one tensor, each with an answer of its own and hidden units in an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(3, *widths)) for widths in ((4, 6), (6, 5), (5, 2)))
        self.bias = nn.Parameter(torch.randn(3, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(torch.tanh(torch.baddbmm(self.bias, x.expand(3, -1, -1), self.a)) @ self.b) @ self.c


NETWORKS: dict[str, Callable[[], Made]] = {
    "turned features": lambda: (Turned(), vectors(4, 6)),
    "splines": lambda: (nn.Sequential(Splines(4, 7), Splines(7, 6), Splines(6, 3)), vectors(4)),
    "mixture density": lambda: (MixtureDensity(), (vectors(4), drawn(5, 2))),
    "vector quantised": lambda: (VectorQuantised(), images()),
    "set attention": lambda: (SetAttention(), vectors(4, 7)),
    "detector": lambda: (Detector(), vectors(6)),
    "mamba": lambda: (Mamba(), vectors(4, 6)),
    "glow": lambda: (Glow(), vectors(4)),
    "ensemble": lambda: (Ensemble(), vectors(4)),
    "masked convolutions": lambda: (nn.Sequential(MaskedConv(3, 6), nn.ReLU(), MaskedConv(6, 4)), images()),
}

GROUPS = {
    "turned features": {"5": 1, "8": 1},
    "splines": {"7": 1, "6": 1},
    "mixture density": {"12": 1, "5": 1},
    "vector quantised": {"6": 1, "10": 1, "7": 1},
    "set attention": {"6": 2, "4": 1, "3": 2, "2 in 3": 2},
    "detector": {"10": 1, "8": 1},
    "mamba": {"6": 1, "10": 1, "5": 1, "3": 1},
    "glow": {"32": 1},
    "ensemble": {"6 in 3": 1, "5 in 3": 1},
    "masked convolutions": {"6": 1},
}
