"""The networks of the Git Re-Basin paper (arXiv:2209.04836): VGG-16 and ResNet-20 with LayerNorm, of any width.

Its LayerNorm normalises the channels at each position, as Flax does for images in (N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects.modules import module_subject, randomise

VGG16 = (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M")
"""Widths as multiples of the first, and max pooling."""


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W) at each position."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a projection where the stream changes."""

    def __init__(self, ins: int, outs: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.norm1 = norm(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.norm2 = norm(outs)
        projects = stride > 1 or ins != outs
        self.shortcut = nn.Sequential(*([nn.Conv2d(ins, outs, 1, stride, bias=False), norm(outs)] if projects else []))

    def forward(self, x: Tensor) -> Tensor:
        """(N, ins, H, W) to (N, outs, H / stride, W / stride)."""
        inside = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inside + self.shortcut(x))


class ResNet20(nn.Module):
    """ResNet-20 for 32 × 32 images: three stages of three blocks of `width`, 2·`width` and 4·`width` channels."""

    def __init__(
        self,
        width: int = 16,
        classes: int = 10,
        blocks: int = 3,
        norm: Callable[[int], nn.Module] = ChannelNorm,
        block: Callable[..., nn.Module] = Block,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.norm1 = norm(width)
        ins = width
        for stage in range(3):
            outs, stride = width * 2**stage, 1 if stage == 0 else 2
            layer = [block(ins if b == 0 else outs, outs, stride if b == 0 else 1, norm) for b in range(blocks)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
            ins = outs
        self.linear = nn.Linear(ins, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, classes)."""
        x = F.relu(self.norm1(self.conv1(x)))
        for stage in (1, 2, 3):
            x = getattr(self, f"layer{stage}")(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class VGG(nn.Module):
    """VGG-16 for 32 × 32 images, `width` channels at first, LayerNorm after each convolution, three linear layers."""

    def __init__(self, width: int = 64, classes: int = 10, hidden: tuple[int, int] = (512, 512)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        ins = 3
        for step in VGG16:
            if isinstance(step, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(ins, step * width, 3, 1, 1), ChannelNorm(step * width), nn.ReLU()]
                ins = step * width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(ins, hidden[0]), nn.ReLU(), nn.Linear(hidden[0], hidden[1]), nn.ReLU(),
            nn.Linear(hidden[1], classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) to logits (N, classes)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def paper_subject(name: str, make: Callable[[], nn.Module], side: int) -> Subject:
    """One of them on two random images of `side` × `side`."""
    torch.manual_seed(0)
    module = randomise(make())
    return module_subject(name, module, (torch.randn(2, 3, side, side, dtype=torch.float64),))


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "resnet-basic": (partial(paper_subject, "the paper's ResNet-20 with LayerNorm", partial(ResNet20, 12), 16),),
    "vgg": (partial(paper_subject, "the paper's VGG-16 with LayerNorm", partial(VGG, 6, 7, (20, 17)), 32),),
}
