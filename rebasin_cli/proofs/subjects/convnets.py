"""Convolutional networks of torchvision and timm, narrow and on small images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects import branching_convnets, depthwise_convnets, paper, perceptrons, zero_padded
from rebasin_cli.proofs.subjects.images import on_images, renamed, torchvision_subject


def vgg(batch_norm: bool) -> Subject:
    """torchvision's VGG with narrow layers; its own classifier has 120 million weights."""
    library("torchvision")
    from torchvision.models import vgg as made

    torch.manual_seed(0)
    with torch.device("meta"):  # no memory, no time
        module = made.VGG(nn.Identity(), num_classes=7, init_weights=False)
    module.features = made.make_layers([16, "M", 24, 20, "M", 28, 32, "M", 36, "M"], batch_norm)
    module.classifier = _classifier(36 * 7 * 7, (0, 3, 6))
    return on_images(f"torchvision VGG ({'BatchNorm' if batch_norm else 'plain'})", module, 32)


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
    return on_images("torchvision AlexNet", module, 64)


def resnet(name: str, block: str, layers: tuple[int, int, int, int], **options: Any) -> Subject:
    """torchvision's ResNet with few blocks."""
    library("torchvision")
    from torchvision.models import resnet as made

    torch.manual_seed(0)
    module = made.ResNet(getattr(made, block), list(layers), num_classes=7, **options)
    return on_images(f"torchvision {name}", module, 32)


def regnet(squeeze: float | None) -> Subject:
    """torchvision's RegNet of three stages, in groups of 8, 8 and 12 channels."""
    library("torchvision")
    from torchvision.models import regnet as made

    torch.manual_seed(0)
    options = made.BlockParams([1, 3, 2], [24, 40, 60], [8, 8, 12], [1.0, 1.0, 1.0], [2, 2, 2], squeeze)
    return on_images(f"torchvision RegNet {'Y' if squeeze else 'X'}", made.RegNet(options, 7, stem_width=16), 32)


def timm_resnet(variant: str, block: str, layers: tuple[int, int, int, int]) -> Subject:
    """timm's narrow ResNet: `D` with a deep stem and pooled shortcuts, `SE` with squeeze-and-excitation."""
    library("timm")
    from timm.models import resnet as made

    torch.manual_seed(0)
    options: dict[str, Any] = (
        {"stem_type": "deep", "stem_width": 12, "avg_down": True}
        if variant == "D"
        else {"block_args": {"attn_layer": "se"}}
    )
    module = made.ResNet(getattr(made, block), layers, num_classes=7, channels=(16, 24, 32, 40), **options)
    return on_images(f"timm ResNet-{variant} of {block}s", module, 32)


def timm_regnet(squeeze: float) -> Subject:
    """timm's RegNet of six blocks in groups of 8 channels."""
    library("timm")
    from timm.models import regnet as made

    torch.manual_seed(0)
    options = made.RegNetCfg(w0=16, wa=12.0, wm=1.6, group_size=8, depth=6, stem_width=12, se_ratio=squeeze)
    return on_images(f"timm RegNet {'Y' if squeeze else 'X'}", made.RegNet(options, num_classes=7), 32)


def densenet(published: bool) -> Subject:
    """torchvision's DenseNet of three blocks; `published`: with `norm.1` for `norm1`, as its files have it."""
    library("torchvision")
    from torchvision.models import DenseNet

    torch.manual_seed(0)
    module = DenseNet(growth_rate=6, block_config=(3, 2, 4), num_init_features=10, bn_size=3, num_classes=7)
    subject = on_images("torchvision DenseNet", module, 32)
    return renamed(subject, {r"(denselayer\d+\.(?:norm|conv))(\d)": r"\1.\2"}) if published else subject


def googlenet() -> Subject:
    """torchvision's GoogLeNet, whose outputs are those of its two auxiliary classifiers too."""
    library("torchvision")
    from torchvision import models

    torch.manual_seed(0)
    module = models.googlenet(num_classes=7, aux_logits=True, init_weights=False)
    module.register_forward_pre_hook(_in_training)
    return on_images("torchvision GoogLeNet", module, 64)


def _in_training(module: nn.Module, inputs: Any) -> None:
    """The auxiliary classifiers run in training alone; the layers inside are without dropout and batch statistics."""
    module.training = True


def _classifier(features: int, places: tuple[int, int, int]) -> nn.Sequential:
    """Three narrow linear layers under the numbers that the real ones have."""
    layers: list[nn.Module] = [nn.ReLU() for _ in range(places[-1] + 1)]
    layers[0] = nn.Identity()
    for place, ins, outs in zip(places, (features, 44, 26), (44, 26, 7), strict=True):
        layers[place] = nn.Linear(ins, outs)
    return nn.Sequential(*layers)


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    **perceptrons.SUBJECTS,
    **depthwise_convnets.SUBJECTS,
    **branching_convnets.SUBJECTS,
    **zero_padded.SUBJECTS,
    "vgg": (partial(vgg, False), partial(vgg, True), alexnet, *paper.SUBJECTS["vgg"]),
    "resnet-basic": (
        partial(resnet, "ResNet-18", "BasicBlock", (2, 2, 2, 2)),
        partial(resnet, "ResNet of 1, 3, 1, 2 blocks", "BasicBlock", (1, 3, 1, 2)),
        partial(timm_resnet, "D", "BasicBlock", (1, 2, 1, 1)),
        partial(timm_resnet, "SE", "BasicBlock", (1, 2, 1, 1)),
        *paper.SUBJECTS["resnet-basic"],
    ),
    "resnet-bottleneck": (
        partial(torchvision_subject, "resnet50"),  # the paper's
        partial(resnet, "ResNeXt 32x4d", "Bottleneck", (1, 2, 1, 1), groups=32, width_per_group=4),
        partial(resnet, "ResNeXt 8x6d", "Bottleneck", (1, 2, 1, 1), groups=8, width_per_group=6),
        partial(timm_resnet, "D", "Bottleneck", (1, 2, 1, 1)),
        partial(timm_resnet, "SE", "Bottleneck", (1, 2, 1, 1)),
        partial(resnet, "Wide ResNet", "Bottleneck", (2, 1, 1, 1), width_per_group=88),
    ),
    "regnet": (partial(regnet, None), partial(regnet, 0.25)),
    "regnet-timm": (partial(timm_regnet, 0.0), partial(timm_regnet, 0.75)),
    "densenet": (partial(densenet, False), partial(densenet, True)),
    "googlenet": (googlenet,),
    "squeezenet": (
        partial(torchvision_subject, "squeezenet1_0", 64),
        partial(torchvision_subject, "squeezenet1_1", 64),
    ),
}
