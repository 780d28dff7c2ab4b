"""Convolutional networks of torchvision and timm, narrow and on small images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from rebasin_cli.evaluation.proving import Subject
from rebasin_cli.evaluation.subjects import paper, perceptrons
from rebasin_cli.evaluation.subjects.libraries import library
from rebasin_cli.evaluation.subjects.modules import module_subject, randomise


def torchvision_subject(model: str, side: int = 32, **options: object) -> Subject:
    """`torchvision.models.MODEL(num_classes=7, …)` on two random images of `side` × `side`."""
    library("torchvision")
    from torchvision import models

    torch.manual_seed(0)
    return _on_images(f"torchvision {model}", getattr(models, model)(num_classes=7, **options), side)


def vgg(batch_norm: bool) -> Subject:
    """torchvision's VGG with narrow layers; its own classifier has 120 million weights."""
    library("torchvision")
    from torchvision.models import vgg as made

    torch.manual_seed(0)
    with torch.device("meta"):  # no memory, no time
        module = made.VGG(nn.Identity(), num_classes=7, init_weights=False)
    module.features = made.make_layers([16, "M", 24, 20, "M", 28, 32, "M", 36, "M"], batch_norm)
    module.classifier = _classifier(36 * 7 * 7, (0, 3, 6))
    return _on_images(f"torchvision VGG ({'BatchNorm' if batch_norm else 'plain'})", module, 32)


def alexnet() -> Subject:
    """torchvision's AlexNet with a narrow classifier."""
    library("torchvision")
    from torchvision import models

    torch.manual_seed(0)
    with torch.device("meta"):
        module = models.alexnet(num_classes=7)
    module.features.to_empty(device="cpu")
    for layer in module.features:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    module.classifier = _classifier(256 * 6 * 6, (1, 4, 6))
    return _on_images("torchvision AlexNet", module, 64)


def resnet(name: str, block: str, layers: tuple[int, int, int, int], **options: Any) -> Subject:
    """torchvision's ResNet with few blocks."""
    library("torchvision")
    from torchvision.models import resnet as made

    torch.manual_seed(0)
    module = made.ResNet(getattr(made, block), list(layers), num_classes=7, **options)
    return _on_images(f"torchvision {name}", module, 32)


def mobilenetv2() -> Subject:
    """torchvision's MobileNetV2 at half its width, with fewer blocks."""
    library("torchvision")
    from torchvision.models import mobilenetv2 as made

    torch.manual_seed(0)
    setting = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 40, 2, 2], [6, 64, 3, 1], [6, 80, 1, 2]]
    return _on_images("torchvision MobileNetV2", made.MobileNetV2(7, 0.5, setting), 32)


def efficientnet(version: int) -> Subject:
    """torchvision's EfficientNet, version 1 or 2, with fewer and narrower stages."""
    library("torchvision")
    from torchvision.models import efficientnet as made

    torch.manual_seed(0)
    block, fused = made.MBConvConfig, made.FusedMBConvConfig
    if version == 1:
        stages = [block(1, 3, 1, 24, 16, 2), block(6, 3, 2, 16, 32, 2), block(4, 5, 1, 32, 40, 1)]
    else:
        stages = [
            fused(1, 3, 1, 24, 24, 2), fused(4, 3, 2, 24, 32, 2), fused(4, 3, 2, 32, 40, 1),
            block(4, 3, 2, 40, 48, 2), block(6, 3, 1, 48, 56, 1),
        ]  # fmt: skip
    module = made.EfficientNet(stages, 0.0, num_classes=7, last_channel=72)
    return _on_images(f"torchvision EfficientNet, version {version}", module, 32)


def _classifier(features: int, places: tuple[int, int, int]) -> nn.Sequential:
    """Three narrow linear layers under the numbers that the real ones have."""
    layers: list[nn.Module] = [nn.ReLU() for _ in range(places[-1] + 1)]
    layers[0] = nn.Identity()
    for place, ins, outs in zip(places, (features, 44, 26), (44, 26, 7), strict=True):
        layers[place] = nn.Linear(ins, outs)
    return nn.Sequential(*layers)


def _on_images(name: str, module: nn.Module, side: int) -> Subject:
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    return module_subject(name, randomise(module), (images,))


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    **perceptrons.SUBJECTS,
    "vgg": (partial(vgg, False), partial(vgg, True), alexnet, *paper.SUBJECTS["vgg"]),
    "resnet-basic": (
        partial(resnet, "ResNet-18", "BasicBlock", (2, 2, 2, 2)),
        partial(resnet, "ResNet of 1, 3, 1, 2 blocks", "BasicBlock", (1, 3, 1, 2)),
        *paper.SUBJECTS["resnet-basic"],
    ),
    "resnet-bottleneck": (
        partial(torchvision_subject, "resnet50"),  # the paper's
        partial(resnet, "ResNeXt 32x4d", "Bottleneck", (1, 2, 1, 1), groups=32, width_per_group=4),
        partial(resnet, "Wide ResNet", "Bottleneck", (2, 1, 1, 1), width_per_group=88),
    ),
    "mobilenetv2": (mobilenetv2,),
    "mobilenetv3": (
        partial(torchvision_subject, "mobilenet_v3_small"),
        partial(torchvision_subject, "mobilenet_v3_large"),
    ),
    "efficientnet": (partial(efficientnet, 1),),
}
