"""The networks of the paper, at widths that two cores train, and those of papers since.

Every one can be built again from a state dict, so that `rebasin --network tests.paper.networks:NAME` runs it; specs of
those that no shipped spec describes are derived from this code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.trained import ChannelNorm, Mlp, Residual

VGG16 = (1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0)  # multiples of the base width; 0 halves the image
HEADS = 4  # of every transformer here
VGG11 = (1, 0, 2, 0, 4, 4, 0, 8, 8)


class Vgg(nn.Module):
    """VGG with LayerNorm over channels in place of BatchNorm, as in the paper, and one linear layer."""

    def __init__(self, base: int, plan: tuple[int, ...] = VGG16) -> None:
        super().__init__()
        self.plan = plan
        widths = [base * times for times in plan if times]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, width, 3, padding=1) for before, width in zip([1, *widths], widths, strict=False)
        )
        self.norms = nn.ModuleList(ChannelNorm(width) for width in widths)
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W) → (N, 10)."""
        x = x.reshape(len(x), 1, *x.shape[-2:])
        layers = zip(self.convs, self.norms, strict=True)
        for times in self.plan:
            if times:
                conv, norm = next(layers)
                x = torch.relu(norm(conv(x)))
            elif x.shape[-1] > 1:
                x = F.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


class GroupResidual(Residual):
    """A ResNet with four groups of GroupNorm."""

    def __init__(self, width: int, blocks: int = 1) -> None:
        super().__init__(width, lambda channels: nn.GroupNorm(4, channels), blocks)


class Attention(nn.Module):
    """Causal or full self-attention."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) → the same."""
        n, length, width = x.shape
        q, k, v = (
            layer(x).view(n, length, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Vit(nn.Module):
    """A Vision Transformer without class token: patches of `patch` pixels, mean over positions."""

    def __init__(self, width: int = 64, depth: int = 2, heads: int = HEADS, patch: int = 7, side: int = 14) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(patch * patch, width)
        self.position = nn.Parameter(0.02 * torch.randn((side // patch) ** 2, width))
        self.layers = nn.ModuleList(_Layer(width, heads, causal=False) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W) → (N, 10)."""
        x = x.reshape(len(x), 1, *x.shape[-2:])
        x = self.embed(F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


class Gpt(nn.Module):
    """A GPT on characters: pre-norm, learned positions, an output layer of its own."""

    def __init__(self, width: int = 64, depth: int = 2, heads: int = HEADS, tokens: int = 64, length: int = 64) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList(_Layer(width, heads, causal=True) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T) → (N, T, tokens)."""
        x = self.embed(x) + self.position(torch.arange(x.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


MAKERS: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": lambda widths: Mlp(*widths),
    "vgg": Vgg,
    "vgg11": lambda base: Vgg(base, VGG11),
    "resnet": lambda width, blocks: Residual(width, ChannelNorm, blocks),
    "resnet-bn": lambda width, blocks: Residual(width, nn.BatchNorm2d, blocks),
    "resnet-gn": GroupResidual,
    "vit": Vit,
    "gpt": Gpt,
}


def vgg(state: Mapping[str, Tensor]) -> nn.Module:
    """A VGG of the widths and depth of a state dict."""
    depth = sum(key.startswith("convs.") and key.endswith(".weight") for key in state)
    plan = next(plan for plan in (VGG16, VGG11) if sum(map(bool, plan)) == depth)
    return Vgg(len(state["convs.0.weight"]), plan)


def resnet_gn(state: Mapping[str, Tensor]) -> nn.Module:
    """A ResNet with GroupNorm of the width of a state dict."""
    blocks = sum(key.startswith("layer1.") and key.endswith("conv1.weight") for key in state)
    return GroupResidual(len(state["conv1.weight"]), blocks)


def vit(state: Mapping[str, Tensor]) -> nn.Module:
    """A Vision Transformer of the sizes of a state dict, of 4 heads and 14 × 14 pixels."""
    depth = sum(key.endswith("attention.query.weight") for key in state)
    width, pixels = state["embed.weight"].shape
    return Vit(width, depth, patch=round(pixels**0.5))


def gpt(state: Mapping[str, Tensor]) -> nn.Module:
    """A GPT of the sizes of a state dict, of 4 heads."""
    depth = sum(key.endswith("attention.query.weight") for key in state)
    tokens, width = state["embed.weight"].shape
    return Gpt(width, depth, tokens=tokens, length=len(state["position.weight"]))


OWN = {"vgg": "vgg", "vgg11": "vgg", "resnet-gn": "resnet_gn", "vit": "vit", "gpt": "gpt"}
"""Makers whose networks `rebasin` is told by `--network`; it runs the others by itself."""
