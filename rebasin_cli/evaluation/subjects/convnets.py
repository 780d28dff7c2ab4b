"""Convolutional networks of torchvision and timm, narrow and on small images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.proving import Subject, Trace
from rebasin_cli.evaluation.subjects import paper, perceptrons
from rebasin_cli.evaluation.subjects.libraries import library
from rebasin_cli.evaluation.subjects.modules import module_subject, randomise
from rebasin_cli.evaluation.subjects.pretrained import pretrained_subject

NARROW = {"depths": (1, 2, 3, 1), "dims": (12, 20, 28, 36)}


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


def timm_subject(model: str, side: int = 32, **options: object) -> Subject:
    """`timm.create_model(MODEL, num_classes=7, …)` on two random images of `side` × `side`."""
    made = library("timm").create_model
    torch.manual_seed(0)
    return _on_images(f"timm {model}", made(model, num_classes=7, **options), side)


def regnet(squeeze: float | None) -> Subject:
    """torchvision's RegNet of three stages, in groups of 8, 8 and 12 channels."""
    library("torchvision")
    from torchvision.models import regnet as made

    torch.manual_seed(0)
    options = made.BlockParams([1, 3, 2], [24, 40, 60], [8, 8, 12], [1.0, 1.0, 1.0], [2, 2, 2], squeeze)
    return _on_images(f"torchvision RegNet {'Y' if squeeze else 'X'}", made.RegNet(options, 7, stem_width=16), 32)


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
    return _on_images(f"timm ResNet-{variant} of {block}s", module, 32)


def timm_regnet(squeeze: float) -> Subject:
    """timm's RegNet of six blocks in groups of 8 channels."""
    library("timm")
    from timm.models import regnet as made

    torch.manual_seed(0)
    options = made.RegNetCfg(w0=16, wa=12.0, wm=1.6, group_size=8, depth=6, stem_width=12, se_ratio=squeeze)
    return _on_images(f"timm RegNet {'Y' if squeeze else 'X'}", made.RegNet(options, num_classes=7), 32)


def timm_efficientnet() -> Subject:
    """timm's EfficientNetV2, narrow, with a first stage as wide as the stem: its first block adds its input too."""
    library("timm")
    from timm.models import efficientnet as made

    torch.manual_seed(0)
    stages = [
        ["cn_r2_k3_s1_e1_c24_skip"], ["er_r2_k3_s2_e4_c32"], ["er_r1_k3_s2_e4_c40"],
        ["ir_r2_k3_s2_e4_c48_se0.25"], ["ir_r1_k3_s1_e6_c56_se0.25"],
    ]  # fmt: skip
    decoded = library("timm.models._efficientnet_builder").decode_arch_def(stages)
    module = made.EfficientNet(decoded, num_classes=7, num_features=44, stem_size=24)
    return _on_images("timm EfficientNetV2, narrow", module, 32)


def densenet(published: bool) -> Subject:
    """torchvision's DenseNet of three blocks; `published`: with `norm.1` for `norm1`, as its files have it."""
    library("torchvision")
    from torchvision.models import DenseNet

    torch.manual_seed(0)
    module = DenseNet(growth_rate=6, block_config=(3, 2, 4), num_init_features=10, bn_size=3, num_classes=7)
    subject = _on_images("torchvision DenseNet", module, 32)
    return renamed(subject, {r"(denselayer\d+\.(?:norm|conv))(\d)": r"\1.\2"}) if published else subject


def convnext() -> Subject:
    """torchvision's ConvNeXt, narrow."""
    library("torchvision")
    from torchvision.models import convnext as made

    torch.manual_seed(0)
    widths = [12, 20, 28, 36]
    blocks = [made.CNBlockConfig(*c) for c in zip(widths, [*widths[1:], None], [1, 2, 3, 1], strict=True)]
    return _on_images("torchvision ConvNeXt", made.ConvNeXt(blocks, layer_scale=0.5, num_classes=7), 64)


def transformers_convnext(version: str) -> Subject:
    """ConvNeXt of transformers, narrow; `version` is empty or `V2`."""
    transformers = library("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"ConvNext{version}Config")(
        hidden_sizes=[12, 20, 28, 36], depths=[1, 2, 3, 1], image_size=64, num_labels=7
    )
    model = getattr(transformers, f"ConvNext{version}ForImageClassification")(config)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    return pretrained_subject(f"transformers ConvNext{version}", model, {"pixel_values": images})


def original_convnext(version: str) -> Subject:
    """The same under the keys of the authors' files."""
    authors = {
        r"^convnext(v2)?\.": "", r"^encoder\.": "", r"^embeddings\.patch_embeddings": "downsample_layers.0.0",
        r"^embeddings\.layernorm": "downsample_layers.0.1", r"stages\.(\d)\.downsampling_layer": r"downsample_layers.\1",
        r"\.layers\.": ".", "layernorm": "norm", "layer_scale_parameter": "gamma", "grn.weight": "grn.gamma",
        "grn.bias": "grn.beta", "^classifier": "head",
    }  # fmt: skip
    return replace(renamed(transformers_convnext(version), authors), config=None)


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


def renamed(subject: Subject, replacements: Mapping[str, str]) -> Subject:
    """The same network under other keys: every pattern in them replaced, on disk only."""
    names = {key: key for key in subject.state}
    for pattern, replacement in replacements.items():
        names = {re.sub(pattern, replacement, name): key for name, key in names.items()}

    def run(state: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        return subject.run({names[key]: tensor for key, tensor in state.items()}, trace)

    state = {name: subject.state[key] for name, key in names.items()}
    return replace(subject, name=f"{subject.name}, other keys", state=state, run=run)


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
    "mobilenetv2": (mobilenetv2,),
    "mobilenetv3": (
        partial(torchvision_subject, "mobilenet_v3_small"),
        partial(torchvision_subject, "mobilenet_v3_large"),
    ),
    "efficientnet": (partial(efficientnet, 1),),
    "efficientnet-v2": (partial(efficientnet, 2),),
    "efficientnet-timm": (
        partial(timm_subject, "efficientnet_b0"),
        partial(timm_subject, "efficientnet_b1"),
        partial(timm_subject, "mobilenetv2_050"),
    ),
    "efficientnet-v2-timm": (
        partial(timm_subject, "tf_efficientnetv2_b0"),
        timm_efficientnet,
    ),
    "mobilenetv3-timm": (
        partial(timm_subject, "mobilenetv3_small_050"),
        partial(timm_subject, "mobilenetv3_large_100"),
    ),
    "regnet": (partial(regnet, None), partial(regnet, 0.25)),
    "regnet-timm": (partial(timm_regnet, 0.0), partial(timm_regnet, 0.75)),
    "densenet": (partial(densenet, False), partial(densenet, True)),
    "convnext-torchvision": (convnext,),
    "convnext-hf": (partial(transformers_convnext, ""), partial(transformers_convnext, "V2")),
    "convnext-original": (partial(original_convnext, ""), partial(original_convnext, "V2")),
    "squeezenet": (
        partial(torchvision_subject, "squeezenet1_0", 64),
        partial(torchvision_subject, "squeezenet1_1", 64),
    ),
    "convnext": (
        partial(timm_subject, "convnext_tiny", 64, **NARROW, ls_init_value=0.5),
        partial(timm_subject, "convnextv2_tiny", 64, **NARROW),
        partial(timm_subject, "convnextv2_atto", 64, **NARROW),
    ),
}
