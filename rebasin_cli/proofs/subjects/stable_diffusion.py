"""Stable Diffusion's networks under the keys of the original checkpoints.

Their code is not a library, but diffusers loads their checkpoints: every run converts the keys with diffusers' own
converter, so a state under original keys is proved on the network that users run it in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.evaluation.running import run_module
from rebasin_cli.proofs.proof import Subject, Trace
from rebasin_cli.proofs.subjects.diffusion import (
    autoencoder,
    autoencoder_inputs,
    text_encoder,
    text_inputs,
    unet,
    unet_inputs,
)
from rebasin_cli.proofs.subjects.modules import randomise

UNET = "model.diffusion_model."
AUTOENCODER = "first_stage_model."
OPENCLIP = "conditioner.embedders.1.model."
PER_LEVEL = 3
"""Blocks of a level in the original numbering: two residual ones, then the change of resolution."""

_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def original_unet_key(key: str, with_transformer: Callable[[int], bool]) -> str:
    """The original name of a UNet tensor of diffusers.

    Args:
        with_transformer: whether an upsampling level has transformers, after which the upsampler is numbered.
    """
    for ours, theirs in _OUTSIDE.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)
    found = re.match(
        r"(down|up|mid)_block(?:s\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key
    )
    assert found is not None, key
    side, level, kind, index, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    if kind == "resnets":
        word, dot, ending = rest.partition(".")
        rest = _RESNET[word] + dot + ending
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * index}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{PER_LEVEL * (level + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{PER_LEVEL * level + 2}.{2 if with_transformer(level) else 1}.{rest}"
    number = PER_LEVEL * level + index + (side == "down")
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{'01'[kind == 'attentions']}.{rest}"


def original_unet_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of a UNet of diffusers under its original keys."""
    state = network.state_dict()

    def with_transformer(level: int) -> bool:
        return any(key.startswith(f"up_blocks.{level}.attentions.") for key in state)

    return {UNET + original_unet_key(key, with_transformer): tensor.clone() for key, tensor in state.items()}


def load_original_unet(network: Any, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Load tensors under original keys into a UNet of diffusers, by diffusers' own conversion."""
    single_file = library("diffusers.loaders.single_file_utils")
    converted = single_file.convert_ldm_unet_checkpoint(dict(tensors), network.config)
    network.load_state_dict({k: v for k, v in converted.items() if v is not None}, assign=True)
    loaded: nn.Module = network
    return loaded


def original_unet(name: str, heads: int, groups: int = 32, cell: int = 1) -> Subject:
    """A UNet with the 32 groups, and the heads, that original checkpoints always have."""
    network = randomise(unet(name, groups, cell, heads))

    def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        return run_module(load_original_unet(network, tensors), unet_inputs(name), trace)

    title = f"diffusers UNet2DConditionModel as {name} in its original layout ({groups} groups of {cell})"
    return Subject(title, original_unet_state(network), run)


def original_autoencoder_key(key: str) -> str:
    """The original name of a tensor of diffusers' autoencoder."""
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = key.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm.", "norm.")
    key = re.sub(r"attn_1\.to_([qkv])\.", r"attn_1.\1.", key).replace("to_out.0.", "proj_out.")
    key = re.sub(r"down_blocks\.(\d)\.", r"down.\1.", key)
    key = re.sub(r"up_blocks\.(\d)\.", lambda m: f"up.{3 - int(m[1])}.", key)
    for ours, theirs in (
        ("resnets.", "block."), ("samplers.0.conv", "sample.conv"), ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ):  # fmt: skip
        key = key.replace(ours, theirs)
    return key


def original_autoencoder_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of diffusers' autoencoder under its original keys; attention was written as convolutions of 1 × 1."""
    state = {}
    for key, tensor in network.state_dict().items():
        is_linear = "attentions" in key and tensor.dim() == 2
        state[AUTOENCODER + original_autoencoder_key(key)] = (tensor[:, :, None, None] if is_linear else tensor).clone()
    return state


def load_original_autoencoder(network: Any, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Load tensors under original keys into diffusers' autoencoder, by diffusers' own conversion."""
    single_file = library("diffusers.loaders.single_file_utils")
    network.load_state_dict(single_file.convert_ldm_vae_checkpoint(dict(tensors), network.config), assign=True)
    loaded: nn.Module = network
    return loaded


def original_autoencoder() -> Subject:
    """An autoencoder with the 32 groups that original checkpoints always have."""
    network = randomise(autoencoder(32, 1))

    def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        return run_module(load_original_autoencoder(network, tensors), autoencoder_inputs(), trace)

    title = "diffusers AutoencoderKL in its original layout (32 groups of 1)"
    return Subject(title, original_autoencoder_state(network), run)


_OPENCLIP = {
    "text_projection.weight": "text_projection",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.encoder.layers.": "transformer.resblocks.",
    ".layer_norm": ".ln_",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    ".self_attn.": ".attn.",
}


def openclip_state(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The state of a CLIP text encoder of transformers under OpenCLIP's keys."""
    state: dict[str, Tensor] = {}
    for key, tensor in network.state_dict().items():
        for ours, theirs in _OPENCLIP.items():
            key = key.replace(ours, theirs)
        if key == "text_projection":
            tensor = tensor.T
        if ".attn.k_proj." in key or ".attn.v_proj." in key or key.endswith("position_ids"):
            continue
        if ".attn.q_proj." in key:
            others = [network.state_dict()[_transformers_key(key, letter)] for letter in "qkv"]
            key, tensor = key.replace("q_proj.", "in_proj_"), torch.cat(others)
        state[prefix + key] = tensor.clone().contiguous()
    return {**state, prefix + "logit_scale": torch.tensor(4.6, dtype=torch.float64)}


def _transformers_key(key: str, letter: str) -> str:
    key = key.replace("transformer.resblocks.", "text_model.encoder.layers.").replace(".attn.", ".self_attn.")
    return key.replace("q_proj.", f"{letter}_proj.")


def load_openclip(network: Any, tensors: Mapping[str, Tensor], prefix: str) -> nn.Module:
    """Load tensors under OpenCLIP's keys into a text encoder of transformers, by diffusers' own conversion."""
    single_file = library("diffusers.loaders.single_file_utils")
    converted = single_file.convert_open_clip_checkpoint(network, dict(tensors), prefix=prefix)
    network.load_state_dict(converted, strict=prefix == OPENCLIP, assign=True)  # 2.x: but for the projection, not read
    loaded: nn.Module = network
    return loaded


def openclip_text_encoder() -> Subject:
    """A text encoder with the heads of 64 that CLIP always has."""
    network = randomise(text_encoder(3, 64))

    def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        return run_module(load_openclip(network, tensors, OPENCLIP), text_inputs(), trace)

    title = "transformers CLIPTextModelWithProjection in OpenCLIP's layout (3 heads of 64)"
    return Subject(title, openclip_state(network, OPENCLIP), run)


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "sd15-unet-original": (partial(original_unet, "sd15", 8),),
    "sd2-unet-original": (partial(original_unet, "sd2", 64, cell=2),),
    "sd-vae-original": (original_autoencoder,),
    "sd-text-encoder-openclip": (openclip_text_encoder,),
    "sdxl-unet-original": (partial(original_unet, "sdxl", 64),),
}
