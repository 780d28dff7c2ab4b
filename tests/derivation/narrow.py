"""Narrower networks of shipped specs whose own proofs run on networks that are too large to be searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects import diffusion, masked_encoders
from rebasin_cli.proofs.subjects.images import on_images, torchvision_subject

_PARTS = 16  # GoogLeNet is this many times narrower


def googlenet() -> Subject:
    """torchvision's GoogLeNet, a 16th as wide, without its auxiliary classifiers."""
    library("torchvision")
    made = library("torchvision.models.googlenet")

    def narrow(ins: int, outs: int, **options: Any) -> nn.Module:
        return made.BasicConv2d(ins if ins == 3 else ins // _PARTS, outs // _PARTS, **options)

    torch.manual_seed(0)
    blocks = [narrow, partial(made.Inception, conv_block=narrow), made.InceptionAux]
    module = made.GoogLeNet(7, aux_logits=False, init_weights=False, blocks=blocks)
    module.fc = nn.Linear(1024 // _PARTS, 7)
    return on_images("torchvision GoogLeNet, narrow", module, 64)


def resnext() -> Subject:
    """timm's ResNet of bottlenecks with grouped convolutions."""
    library("timm")
    from timm.models import resnet as made

    torch.manual_seed(0)
    options: dict[str, Any] = {"cardinality": 4, "base_width": 24}
    module = made.ResNet(made.Bottleneck, (1, 2, 1, 1), num_classes=7, channels=(16, 24, 32, 40), **options)
    return on_images("timm ResNeXt, narrow", module, 32)


def efficientnet() -> Subject:
    """timm's EfficientNet of fewer and narrower stages."""
    library("timm")
    from timm.models import efficientnet as made

    torch.manual_seed(0)
    stages = [["ds_r1_k3_s1_e1_c16_se0.25"], ["ir_r2_k3_s2_e6_c24_se0.25"], ["ir_r1_k5_s2_e6_c40_se0.25"]]
    decoded = library("timm.models._efficientnet_builder").decode_arch_def(stages)
    module = made.EfficientNet(decoded, num_classes=7, num_features=44, stem_size=24)
    return on_images("timm EfficientNet, narrow", module, 32)


def unet(name: str) -> Subject:
    """Stable Diffusion's UNet in two groups of two channels."""
    made = diffusion.unet(name, 2, 2, 2)
    return diffusion.diffusers_subject(f"diffusers UNet2DConditionModel as {name}, narrow", made,
                                       diffusion.unet_inputs(name))  # fmt: skip


def autoencoder() -> Subject:
    """Stable Diffusion's autoencoder in two groups of three channels."""
    made = diffusion.autoencoder(2, 3)
    return diffusion.diffusers_subject("diffusers AutoencoderKL, narrow", made, diffusion.autoencoder_inputs())


class _NoTypes(nn.Module):
    """In place of an embedding of types of tokens: fairseq's RoBERTa has none."""

    def forward(self, ids: Tensor) -> float:
        return 0.0


def roberta() -> Subject:
    """transformers' RoBERTa, beside the state under fairseq's keys that it is proved with."""
    subject, same = masked_encoders.fairseq_roberta("ForMaskedLM"), masked_encoders.bert("ForMaskedLM", "Roberta")
    assert same.network is not None
    module, inputs = same.network
    module.roberta.embeddings.token_type_embeddings = _NoTypes()
    return replace(subject, network=(module, inputs))


NARROW: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "mobilenetv3": (
        partial(torchvision_subject, "mobilenet_v3_small", width_mult=0.25),
        partial(torchvision_subject, "mobilenet_v3_large", width_mult=0.25),
    ),
    "efficientnet-timm": (efficientnet,),
    "resnet-bottleneck": (resnext,),
    "googlenet": (googlenet,),
    "sd15-unet": (partial(unet, "sd15"),),
    "sd2-unet": (partial(unet, "sd2"),),
    "sdxl-unet": (partial(unet, "sdxl"),),
    "sd-vae": (autoencoder,),
    "roberta-fairseq": (roberta,),
}
