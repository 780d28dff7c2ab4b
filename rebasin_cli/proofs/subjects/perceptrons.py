"""Multilayer perceptrons under the names that people give their layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects.modules import module_subject, randomise

WIDTHS = (11, 9, 8, 13, 5)


class NumberedLayers(nn.Module):
    """`fc1`, `bn1`, `fc2` … as attributes, the way most tutorials write it."""

    def __init__(self, linear: str, norm: str) -> None:
        super().__init__()
        self.names = [f"{linear}{at + 1}" for at in range(len(WIDTHS) - 1)]
        self.norms = [f"{norm}{at + 1}" for at in range(len(WIDTHS) - 2)] if norm else []
        for name, (ins, outs) in zip(self.names, pairwise(WIDTHS), strict=True):
            setattr(self, name, nn.Linear(ins, outs))
        for name, width in zip(self.norms, WIDTHS[1:], strict=False):
            setattr(self, name, nn.BatchNorm1d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 11) to (N, 5)."""
        for at, name in enumerate(self.names):
            x = getattr(self, name)(x)
            if at < len(self.norms):
                x = getattr(self, self.norms[at])(x)
            if at < len(self.names) - 1:
                x = x.relu()
        return x


class NestedLayers(nn.Module):
    """`layers.0.linear`, `layers.0.norm`: a list of small modules, the last without a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        blocks = []
        for at, (ins, outs) in enumerate(pairwise(WIDTHS)):
            block: OrderedDict[str, nn.Module] = OrderedDict(linear=nn.Linear(ins, outs, bias=at % 2 == 0))
            if at < len(WIDTHS) - 2:
                block |= {"norm": nn.LayerNorm(outs), "act": nn.GELU()}
            blocks.append(nn.Sequential(block))
        self.layers = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 11) to (N, 5)."""
        out: torch.Tensor = self.layers(x)
        return out


def sequential(norm: Callable[[int], nn.Module] | None) -> nn.Module:
    """`0.weight`, `2.weight` …, with `1.weight` for a normalisation after each layer but the last."""
    layers: list[nn.Module] = []
    for ins, outs in pairwise(WIDTHS):
        layers += [nn.Linear(ins, outs), *([norm(outs)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers[: -2 if norm else -1])


def perceptron(name: str, make: Callable[[], nn.Module], prefix: str = "") -> Subject:
    """A subject of one of them, on four random vectors."""
    torch.manual_seed(0)
    module = randomise(make())
    vectors = torch.randn(4, WIDTHS[0], dtype=torch.float64)
    return module_subject(f"MLP ({name})", module, (vectors,), prefix=prefix)


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "mlp": (
        partial(perceptron, "nn.Sequential", partial(sequential, None)),
        partial(perceptron, "nn.Sequential, BatchNorm1d after each layer", partial(sequential, nn.BatchNorm1d)),
        partial(perceptron, "nn.Sequential, LayerNorm, under net.", partial(sequential, nn.LayerNorm), "net."),
        partial(perceptron, "fc1, fc2 …", partial(NumberedLayers, "fc", "")),
        partial(perceptron, "linear1, bn1 …", partial(NumberedLayers, "linear", "bn")),
        partial(perceptron, "layers.0.linear, layers.0.norm …", NestedLayers),
    )
}
