"""Networks of diffusion models: UNets, autoencoders, diffusion transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.evaluation.running import run_module
from rebasin_cli.proofs.proof import Subject, Trace
from rebasin_cli.proofs.subjects import towers
from rebasin_cli.proofs.subjects.modules import randomise
from rebasin_cli.proofs.subjects.pretrained import pretrained_subject

GROUPS, CELL = 8, 2
"""As SD's 32 groups of 10 channels: straddling groups cut the streams in the same way if the groups are 2 modulo 3,
and an even number of them lets every skip be halved."""


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    """Normal float64 numbers, always the same for a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def diffusers_subject(name: str, model: Any, inputs: Mapping[str, Any], tolerance: float = 1e-9) -> Subject:
    """A model of diffusers, whose files have the keys that it has in memory.

    Every run loads the permuted tensors into the one network: making a new one takes longer than running it.
    """
    randomise(model)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        model.load_state_dict(dict(tensors), assign=True)
        return run_module(model, inputs, trace)

    config = json.loads(model.to_json_string())
    return Subject(name, state, run, config, tolerance=tolerance, network=(model, inputs))


def unet(name: str, groups: int, cell: int, heads: int, context: int = 20, pooled: int = 10) -> nn.Module:
    """Stable Diffusion 1.5's, 2's or XL's UNet, `groups · cell` channels wide where the real one has 32 · 10.

    Args:
        heads: for sd15 their number; for the others the size of each.
        context, pooled: widths of the text features, and for sdxl of the pooled ones.
    """
    torch.manual_seed(0)
    width = groups * cell
    options: dict[str, Any] = {
        "block_out_channels": (width, 2 * width, 4 * width, 4 * width),
        "attention_head_dim": heads,
    }
    if name == "sd2":
        options["use_linear_projection"] = True
        options["attention_head_dim"] = tuple(max(1, width * times // heads) for times in (1, 2, 4, 4))
    if name == "sdxl":
        options = {
            "block_out_channels": (width, 2 * width, 4 * width),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 3),
            "attention_head_dim": tuple(max(1, width * times // heads) for times in (1, 2, 4)),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 6,
            "projection_class_embeddings_input_dim": 6 * 6 + pooled,
        }
    made: nn.Module = library("diffusers").UNet2DConditionModel(
        layers_per_block=2, norm_num_groups=groups, cross_attention_dim=context, sample_size=8, **options
    )
    return made


def unet_inputs(name: str) -> dict[str, Any]:
    """Latents, a time step and text features, as the pipelines give them."""
    inputs: dict[str, Any] = {
        "sample": random(1, 4, 8, 8),
        "timestep": torch.tensor([321]),
        "encoder_hidden_states": random(1, 5, 20, seed=2),
    }
    if name == "sdxl":
        inputs["added_cond_kwargs"] = {"text_embeds": random(1, 10, seed=3), "time_ids": torch.tensor([[8.0] * 6])}
    return inputs


def diffusers_unet(name: str, heads: int) -> Subject:
    """In diffusers' layout."""
    title = f"diffusers UNet2DConditionModel as {name} ({GROUPS} groups of {CELL})"
    return diffusers_subject(title, unet(name, GROUPS, CELL, heads), unet_inputs(name))


def autoencoder(groups: int, cell: int, **options: Any) -> nn.Module:
    """Stable Diffusion's autoencoder, `groups · cell` channels wide where the real one has 32 · 4."""
    torch.manual_seed(0)
    width = groups * cell
    made: nn.Module = library("diffusers").AutoencoderKL(
        block_out_channels=(width, 2 * width, 4 * width, 4 * width), layers_per_block=2, norm_num_groups=groups,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4, sample_size=16, **options,
    )  # fmt: skip
    return made


def autoencoder_inputs() -> dict[str, Any]:
    """An image; what comes out went through the mean of the latents, not a sample of them."""
    return {"sample": random(1, 3, 16, 16), "sample_posterior": False}


def diffusers_autoencoder(**options: Any) -> Subject:
    """In diffusers' layout."""
    name = f"diffusers AutoencoderKL (5 groups of 3{', without quant_conv' if options else ''})"
    return diffusers_subject(name, autoencoder(5, 3, **options), autoencoder_inputs())


def text_encoder(heads: int, head_dim: int) -> nn.Module:
    """A CLIP text encoder with its projection."""
    transformers = library("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=50, hidden_size=heads * head_dim, num_attention_heads=heads, intermediate_size=56,
        num_hidden_layers=3, max_position_embeddings=16, projection_dim=heads * head_dim,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config._attn_implementation = "eager"
    made: nn.Module = transformers.CLIPTextModelWithProjection(config)
    return made


def text_inputs() -> dict[str, Any]:
    """Tokens; all hidden states come out, for a UNet may read any."""
    ids = torch.randint(3, 49, (2, 9), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = 49
    return {"input_ids": ids, "output_hidden_states": True}


def transformers_text_encoder() -> Subject:
    """In transformers' layout, through its files."""
    name = "transformers CLIPTextModelWithProjection (5 heads of 8)"
    return pretrained_subject(name, text_encoder(5, 8), text_inputs())


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "sd15-unet": (partial(diffusers_unet, "sd15", 4),),
    "sd2-unet": (partial(diffusers_unet, "sd2", 8),),
    "sd-vae": (
        diffusers_autoencoder,
        partial(diffusers_autoencoder, use_quant_conv=False, use_post_quant_conv=False),
    ),
    "sd-text-encoder": (transformers_text_encoder, *towers.TEXT),
    "sdxl-unet": (partial(diffusers_unet, "sdxl", 8),),
}
