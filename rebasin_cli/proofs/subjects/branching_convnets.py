"""Convolutional networks of timm and torchvision whose streams part and meet again: narrow, and on small images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects.images import on_images


def slimmed(module: nn.Module, parts: int) -> nn.Module:
    """A module of plain convolutions and norms, `parts` times narrower but for its inputs and outputs."""
    first = next(name for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d))
    for name, layer in [*module.named_modules()]:
        made: nn.Module | None = None
        old: Any = layer
        if isinstance(layer, nn.Conv2d):
            ins = old.in_channels // (1 if name == first else parts)
            same = {"stride": old.stride, "padding": old.padding, "bias": old.bias is not None}
            made = nn.Conv2d(ins, old.out_channels // parts, old.kernel_size, **same)
        elif isinstance(layer, nn.BatchNorm2d):
            made = nn.BatchNorm2d(old.num_features // parts, old.eps)
        elif isinstance(layer, nn.Linear):
            made = nn.Linear(old.in_features // parts, old.out_features)
        if made is not None:
            module.set_submodule(name, made)
    return module


def ghostnet(version: str = "v1") -> Subject:
    """timm's GhostNet of four blocks, with strides and squeeze-and-excitation; in v2 the last two have attention."""
    made = library("timm.models.ghostnet")
    torch.manual_seed(0)
    stages = [
        [[3, 16, 16, 0, 1]],
        [[3, 24, 12, 0, 2], [3, 36, 12, 0.25, 1]],
        [[5, 40, 20, 0.25, 2]],
    ]  # fmt: skip
    module = made.GhostNet(stages, num_classes=7, width=1.0, in_chans=3, version=version)
    return on_images(f"timm GhostNet ({version})", module, 32)


def res2net() -> Subject:
    """timm's Res2Net of few blocks, each of four parts one after the other."""
    made, kinds = library("timm.models.resnet"), library("timm.models.res2net")
    torch.manual_seed(0)
    module = made.ResNet(
        kinds.Bottle2neck, (2, 2, 1, 1), num_classes=7, channels=(12, 16, 20, 24), base_width=26,
        block_args={"scale": 4},
    )  # fmt: skip
    return on_images("timm Res2Net", module, 32)


def hrnet() -> Subject:
    """timm's HRNet of few blocks, an 8th as wide; its head has fixed widths, which is why it is made narrower."""
    made = library("timm.models.hrnet")
    torch.manual_seed(0)
    widths = (16, 32, 64, 128)
    config: dict[str, Any] = {
        "stem_width": 64,
        "stage1": {
            "num_modules": 1, "num_branches": 1, "block_type": "BOTTLENECK", "num_blocks": (2,), "num_channels": (32,),
            "fuse_method": "SUM",
        },
        **{
            f"stage{n}": {
                "num_modules": 2 if n == 3 else 1, "num_branches": n, "block_type": "BASIC", "num_blocks": (1,) * n,
                "num_channels": widths[:n], "fuse_method": "SUM",
            }
            for n in (2, 3, 4)
        },
    }  # fmt: skip
    module = made.HighResolutionNet(config, num_classes=7)
    return on_images("timm HRNet", slimmed(module, 8), 64)


def inception() -> Subject:
    """torchvision's Inception v3, a 16th as wide."""
    library("torchvision")
    from torchvision import models

    torch.manual_seed(0)
    module = models.Inception3(num_classes=7, aux_logits=False, init_weights=False)
    return on_images("torchvision Inception v3", slimmed(module, 16), 80)


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "ghostnet": (ghostnet, partial(ghostnet, "v2")),
    "res2net": (res2net,),
    "hrnet": (hrnet,),
    "inception": (inception,),
}
