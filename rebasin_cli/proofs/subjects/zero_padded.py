"""ResNet-20 with zero-padded shortcuts: option A of He et al. (arXiv:1512.03385, section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects.images import renamed
from rebasin_cli.proofs.subjects.paper import Block, ResNet20, paper_subject


class ZeroPadded(nn.Module):
    """Every second pixel, between as many channels of zeros on either side."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + more, H / 2, W / 2)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


class PaddedBlock(Block):
    """A block whose shortcut has no weights."""

    def __init__(self, ins: int, outs: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__(ins, outs, stride, norm)
        self.shortcut = nn.Sequential(*([ZeroPadded(outs - ins)] if outs > ins else []))


def option_a(width: int = 12) -> Subject:
    """ResNet-20 for CIFAR as it is published for torch: `bn1`, `linear`."""
    make = partial(ResNet20, width, norm=nn.BatchNorm2d, block=PaddedBlock)
    return renamed(paper_subject("ResNet-20 with zero-padded shortcuts", make, 16), {r"norm(\d)": r"bn\1"})


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {"resnet-option-a": (option_a,)}
