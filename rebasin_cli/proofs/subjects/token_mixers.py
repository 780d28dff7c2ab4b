"""Networks of timm that mix tokens in other ways than ViT, at toy sizes: MLP-Mixer, PoolFormer, CaiT and XCiT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects.images import on_images
from rebasin_cli.proofs.subjects.modules import module_subject, randomise

_HEADS = 4
_CONFIG = {"model_args": {"num_heads": _HEADS}}


def _uneven(module: nn.Module) -> nn.Module:
    """With weights so large that attention is not even: at the usual ones hardly anything changes it."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5)
    return randomise(module)


def mixer(block: str, note: str = "", **options: Any) -> Subject:
    """timm's MlpMixer of one of its kinds of blocks."""
    made = library("timm.models.mlp_mixer")
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "num_blocks": 2, "num_classes": 7}
    module = made.MlpMixer(**defaults, block_layer=getattr(made, block), **options)
    return on_images(f"timm {note or 'MLP-Mixer'}", module, 16)


def gated() -> Subject:
    """gMixer: the rows of a first layer are followed by those of their gates."""
    glu = library("timm.layers").GluMlp
    return mixer("MixerBlock", "gMixer", mlp_ratio=(1.0, 3.0), mlp_layer=glu, act_layer=nn.SiLU)


def resmlp() -> Subject:
    """ResMLP, whose norms are affine and whose patches are mixed by one linear layer."""
    affine = library("timm.models.mlp_mixer").Affine
    return mixer("ResBlock", "ResMLP", mlp_ratio=1.5, norm_layer=affine)


def gmlp() -> Subject:
    """gMLP, whose gates look across the patches."""
    return mixer("SpatialGatingBlock", "gMLP", mlp_ratio=3, mlp_layer=library("timm.layers").GatedMlp)


def poolformer(version: int) -> Subject:
    """timm's PoolFormer of two stages; the second version has norms without biases and scaled activations."""
    made = library("timm.models.metaformer")
    torch.manual_seed(0)
    first: dict[str, Any] = {
        "downsample_norm": None, "mlp_act": nn.GELU, "mlp_bias": True, "norm_layers": made.GroupNorm1,
        "layer_scale_init_values": 0.5, "res_scale_init_values": None,
    }  # fmt: skip
    second: dict[str, Any] = {"norm_layers": made.GroupNorm1NoBias, "res_scale_init_values": (None, 1.0)}
    module = made.MetaFormer(
        depths=(2, 1), dims=(8, 12), num_classes=7, use_mlp_head=False, **(first if version == 1 else second)
    )
    return on_images(f"timm PoolFormer (version {version})", module, 32)


def cait() -> Subject:
    """timm's CaiT with 4 heads that talk to each other."""
    torch.manual_seed(0)
    module = library("timm.models.cait").Cait(
        img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=_HEADS, mlp_ratio=1.5, num_classes=7,
        mlp_ratio_token_only=1.25, depth_token_only=2, init_values=0.5,
    )  # fmt: skip
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    return module_subject("timm CaiT (4 heads)", _uneven(module), (images,), config=_CONFIG)


def xcit(patch: int = 8, **options: Any) -> Subject:
    """timm's XCiT with 4 heads, whose attention is between channels."""
    torch.manual_seed(0)
    module = library("timm.models.xcit").Xcit(
        img_size=4 * patch, patch_size=patch, embed_dim=24, depth=2, num_heads=_HEADS, mlp_ratio=1.5, num_classes=7,
        cls_attn_layers=2, eta=0.5, **options,
    )  # fmt: skip
    images = torch.randn(2, 3, 4 * patch, 4 * patch, dtype=torch.float64)
    return module_subject(f"timm XCiT (patches of {patch})", _uneven(module), (images,), config=_CONFIG)


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "mlp-mixer": (partial(mixer, "MixerBlock"), gated),
    "resmlp": (resmlp,),
    "gmlp": (gmlp,),
    "poolformer": (partial(poolformer, 1), partial(poolformer, 2)),
    "cait": (cait,),
    "xcit": (xcit, partial(xcit, 16, tokens_norm=True)),
}
