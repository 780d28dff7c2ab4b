"""Vision transformers of timm, torchvision and transformers at toy sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects import token_mixers
from rebasin_cli.proofs.subjects.modules import module_subject, randomise
from rebasin_cli.proofs.subjects.pretrained import pretrained_subject
from rebasin_cli.proofs.subjects.variants import under_other_keys, with_extra

_HEADS = 6
_SIZES: Mapping[str, Any] = {
    "hidden_size": 48, "num_attention_heads": _HEADS, "intermediate_size": 40, "num_hidden_layers": 2,
    "image_size": 24, "patch_size": 8, "initializer_range": 0.2,
}  # fmt: skip
_TIMM: Mapping[str, Any] = {"mlp_ratio": 40 / 48, "num_classes": 7}


def images(side: int = 24) -> Tensor:
    """Two images of three channels."""
    return torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def timm_vit(note: str, *, config: Mapping[str, object] | None = None, **options: Any) -> Subject:
    """timm's VisionTransformer with 6 heads; `--set` says so where `config` does not."""
    torch.manual_seed(0)
    made = library("timm.models.vision_transformer").VisionTransformer(
        **{**_TIMM, **options}, img_size=24, patch_size=8, embed_dim=48, depth=2, num_heads=_HEADS
    )
    overrides = {} if config else {"head": _HEADS}
    return module_subject(f"timm ViT ({note})", randomise(made), [images()], config=config, overrides=overrides)


def timm_distilled() -> Subject:
    """DeiT with a distillation token and two heads."""
    torch.manual_seed(0)
    made = library("timm.models.deit").VisionTransformerDistilled(
        **_TIMM, img_size=24, patch_size=8, embed_dim=48, depth=2, num_heads=_HEADS
    )
    return module_subject("timm DeiT (distilled)", randomise(made), [images()], overrides={"head": _HEADS})


def timm_gated() -> Subject:
    """DINOv2's giant: LayerScale, register tokens and a gated MLP."""
    layers = library("timm.layers")
    return timm_vit(
        "DINOv2, gated", init_values=0.5, reg_tokens=2, no_embed_class=True,
        mlp_layer=partial(layers.GluMlp, gate_last=False), act_layer=torch.nn.SiLU, mlp_ratio=80 / 48,
    )  # fmt: skip


def published_dinov2() -> Subject:
    """DINOv2 under its authors' keys: `register_tokens`, `w12` and `w3`."""
    renamed = {"reg_token": "register_tokens", ".fc1.": ".w12.", ".fc2.": ".w3."}
    return under_other_keys(timm_gated(), "DINOv2 under its authors' keys", renamed)


def timm_beit() -> Subject:
    """BEiT, whose tables of relative positions tell the number of heads."""
    torch.manual_seed(0)
    made = library("timm.models.beit").Beit(
        img_size=24, patch_size=8, embed_dim=48, depth=2, num_heads=_HEADS, mlp_ratio=40 / 48, num_classes=7,
        qkv_bias=True, init_values=0.5, use_abs_pos_emb=False, use_rel_pos_bias=True,
    )  # fmt: skip
    return module_subject("timm BEiT", randomise(made), [images()])


def torchvision_vit() -> Subject:
    """torchvision's VisionTransformer with 6 heads."""
    torch.manual_seed(0)
    made = library("torchvision").models.VisionTransformer(24, 8, 2, _HEADS, 48, 40, num_classes=7)
    return module_subject("torchvision ViT (6 heads)", randomise(made), [images()], overrides={"head": _HEADS})


def transformers_vit(family: str, model: str, **options: Any) -> Subject:
    """A vision transformer of transformers with 6 heads."""
    transformers = library("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**_SIZES, "num_labels": 7, **options})
    config._attn_implementation = "eager"
    made = getattr(transformers, f"{family}{model}")(config)
    return pretrained_subject(f"transformers {family}{model}", made, {"pixel_values": images()})


def timm_swin(version: str = "", **options: Any) -> Subject:
    """timm's Swin Transformer: two stages with 2 and 3 heads, the second twice as wide."""
    torch.manual_seed(0)
    module = library(f"timm.models.swin_transformer{'_v2' if version else ''}")
    made = getattr(module, f"SwinTransformer{version}")(
        **{"num_classes": 7, **options}, img_size=32, patch_size=2, embed_dim=12, depths=(2, 2), num_heads=(2, 3),
        window_size=4, mlp_ratio=1.5,
    )  # fmt: skip
    return module_subject(f"timm SwinTransformer{version}", randomise(made), [images(32)])


def original_swin(version: str = "") -> Subject:
    """Swin under its authors' keys: patches are merged at the end of a stage, and masks are in the file."""

    def rename(key: str) -> str:
        return key.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head")

    name = f"Swin{version} under its authors' keys"
    masks = {"layers.0.blocks.1.attn_mask": torch.zeros(16, 16, 16)}
    masks["layers.0.blocks.1.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    return with_extra(under_other_keys(timm_swin(version), name, rename), name, masks)


def transformers_swin(model: str) -> Subject:
    """Swin of transformers, as `timm_swin`."""
    transformers = library("transformers")
    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=12, depths=[2, 2], num_heads=[2, 3], window_size=4, mlp_ratio=1.5,
        initializer_range=0.2, num_labels=7,
    )  # fmt: skip
    config._attn_implementation = "eager"
    made = getattr(transformers, f"Swin{model}")(config)
    return pretrained_subject(f"transformers Swin{model}", made, {"pixel_values": images(32)})


_CLASSIFY = "ForImageClassification"

SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "vit": (
        partial(timm_vit, "with a head"),
        partial(timm_vit, "its config.json says 6 heads", config={"model_args": {"num_heads": _HEADS}}),
        partial(timm_vit, "without a head", num_classes=0),
        partial(timm_vit, "DeiT-III", init_values=0.5, no_embed_class=True, qkv_bias=False),
        partial(timm_vit, "mean of the patches", global_pool="avg", class_token=False, pre_norm=True),
        timm_distilled,
        timm_gated,
        published_dinov2,
        timm_beit,
    ),
    "vit-torchvision": (torchvision_vit,),
    "vit-hf": (
        partial(transformers_vit, "ViT", _CLASSIFY),
        partial(transformers_vit, "ViT", "Model"),
        partial(transformers_vit, "DeiT", "ForImageClassificationWithTeacher"),
        partial(transformers_vit, "Dinov2", _CLASSIFY, mlp_ratio=2),
        partial(transformers_vit, "Dinov2WithRegisters", _CLASSIFY, mlp_ratio=2, use_swiglu_ffn=True),
    ),
    "swin": (timm_swin, partial(timm_swin, num_classes=0)),
    "swin-original": (original_swin,),
    "swinv2-original": (partial(original_swin, "V2"),),
    "swinv2": (partial(timm_swin, "V2"),),
    **token_mixers.SUBJECTS,
    "swin-hf": (partial(transformers_swin, _CLASSIFY), partial(transformers_swin, "Model")),
}
