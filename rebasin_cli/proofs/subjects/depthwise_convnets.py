"""Networks of depthwise convolutions: MobileNets, EfficientNets and ConvNeXts, narrow and on small images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects.images import on_images, renamed, timm_subject, torchvision_subject
from rebasin_cli.proofs.subjects.pretrained import pretrained_subject

NARROW = {"depths": (1, 2, 3, 1), "dims": (12, 20, 28, 36)}


def mobilenetv2() -> Subject:
    """torchvision's MobileNetV2 at half its width, with fewer blocks."""
    library("torchvision")
    from torchvision.models import mobilenetv2 as made

    torch.manual_seed(0)
    setting = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 40, 2, 2], [6, 64, 3, 1], [6, 80, 1, 2]]
    return on_images("torchvision MobileNetV2", made.MobileNetV2(7, 0.5, setting), 32)


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
    return on_images(f"torchvision EfficientNet, version {version}", module, 32)


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
    return on_images("timm EfficientNetV2, narrow", module, 32)


def convnext() -> Subject:
    """torchvision's ConvNeXt, narrow."""
    library("torchvision")
    from torchvision.models import convnext as made

    torch.manual_seed(0)
    widths = [12, 20, 28, 36]
    blocks = [made.CNBlockConfig(*c) for c in zip(widths, [*widths[1:], None], [1, 2, 3, 1], strict=True)]
    return on_images("torchvision ConvNeXt", made.ConvNeXt(blocks, layer_scale=0.5, num_classes=7), 64)


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
        r"^embeddings\.layernorm": "downsample_layers.0.1",
        r"stages\.(\d)\.downsampling_layer": r"downsample_layers.\1",
        r"\.layers\.": ".", "layernorm": "norm", "layer_scale_parameter": "gamma", "grn.weight": "grn.gamma",
        "grn.bias": "grn.beta", "^classifier": "head",
    }  # fmt: skip
    return replace(renamed(transformers_convnext(version), authors), config=None)


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
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
    "convnext-torchvision": (convnext,),
    "convnext-hf": (partial(transformers_convnext, ""), partial(transformers_convnext, "V2")),
    "convnext-original": (partial(original_convnext, ""), partial(original_convnext, "V2")),
    "convnext": (
        partial(timm_subject, "convnext_tiny", 64, **NARROW, ls_init_value=0.5),
        partial(timm_subject, "convnextv2_tiny", 64, **NARROW),
        partial(timm_subject, "convnextv2_atto", 64, **NARROW),
    ),
}
