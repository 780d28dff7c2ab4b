"""Networks that choose, round, stop gradients or recompute them, and that answer with distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution
from torch.utils.checkpoint import checkpoint

from tests.derivation.networks import Made, vectors


class HardCodes(nn.Module):
    """Two latent variables of four classes, the largest of which is decoded, with the gradient straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(5, 8), nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Any:
        soft = self.encode(x).view(-1, 2, 4).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), 4).to(soft.dtype)
        return self.decode((hard - soft.detach() + soft).flatten(1))


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient


class Quantised(nn.Linear):
    """Weights in sixteen steps, whose size is learned for each row; inputs in as many."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(inner, outer)
        self.step, self.input_step = nn.Parameter(torch.full((outer, 1), 0.05)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = _Round.apply((x / self.input_step).clamp(-8, 7)) * self.input_step
        return F.linear(x, _Round.apply((self.weight / self.step).clamp(-8, 7)) * self.step, self.bias)


class Target(nn.Module):
    """The direction that one network predicts is compared with that of another, which has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.target = (nn.Sequential(nn.Linear(4, n), nn.Tanh(), nn.Linear(n, 6)) for n in (8, 7))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = F.normalize(self.target(x), dim=-1)
        return (F.normalize(self.online(x), dim=-1) * target).sum(-1)


class Checkpointed(nn.Module):
    """Two blocks in a stream, of which nothing is kept for the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(4, 6), nn.Linear(6, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU()) for _ in range(2))
        self.back = nn.ModuleList(nn.Linear(8, 6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for reentrant, block, back in zip((True, False), self.blocks, self.back, strict=True):
            x = x + back(checkpoint(block, x, use_reentrant=reentrant))
        return self.out(x)


class Policy(nn.Module):
    """A distribution of actions, and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.actions, self.value = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Distribution, Tensor]:
        h = torch.tanh(self.body(x))
        return Categorical(logits=self.actions(h)), self.value(h)


NETWORKS: dict[str, Callable[[], Made]] = {
    "hard codes": lambda: (HardCodes(), vectors(5)),
    "quantised": lambda: (nn.Sequential(Quantised(5, 9), nn.ReLU(), Quantised(9, 3)), vectors(5)),
    "target": lambda: (Target(), vectors(4)),
    "checkpointed": lambda: (Checkpointed(), vectors(4)),
    "policy": lambda: (Policy(), vectors(4)),
}

GROUPS = {
    "hard codes": {"4 in 2": 1, "6": 1},
    "quantised": {"9": 1},
    "target": {"8": 1, "7": 1, "6": 1},
    "checkpointed": {"6": 1, "8": 2},
    "policy": {"8": 1},
}
