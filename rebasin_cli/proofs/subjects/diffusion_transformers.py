"""Diffusion transformers of diffusers: DiT, Stable Diffusion 3, Flux."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects.diffusion import diffusers_subject, random
from rebasin_cli.proofs.subjects.pretrained import RMS_TOLERANCE


def dit() -> Subject:
    """DiT with 6 heads of 8."""
    torch.manual_seed(0)
    model = library("diffusers").DiTTransformer2DModel(
        num_attention_heads=6, attention_head_dim=8, num_layers=2, sample_size=8, num_embeds_ada_norm=7
    )
    inputs = {
        "hidden_states": random(2, 4, 8, 8),
        "timestep": torch.tensor([3, 500]),
        "class_labels": torch.tensor([1, 6]),
    }
    return diffusers_subject("diffusers DiTTransformer2DModel (6 heads of 8)", model, inputs)


def sd3_network(**options: Any) -> nn.Module:
    """Stable Diffusion 3 with 6 heads of 8 and three blocks, the last of which drops the text."""
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"attention_head_dim": 8, "num_attention_heads": 6, "caption_projection_dim": 48}
    made: nn.Module = library("diffusers").SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=3, joint_attention_dim=20, pooled_projection_dim=10,
        pos_embed_max_size=6, **{**defaults, **options},
    )  # fmt: skip
    return made


def sd3_inputs() -> dict[str, Any]:
    """Latents, text features and a time step."""
    return {
        "hidden_states": random(2, 4, 8, 8),
        "encoder_hidden_states": random(2, 5, 20, seed=2),
        "pooled_projections": random(2, 10, seed=3),
        "timestep": torch.tensor([3, 500]),
    }


def sd3(name: str, tolerance: float = 1e-9, **options: Any) -> Subject:
    """Stable Diffusion 3 in diffusers' layout."""
    name = f"diffusers SD3Transformer2DModel as {name} (6 heads of 8)"
    return diffusers_subject(name, sd3_network(**options), sd3_inputs(), tolerance)


def flux_network(guidance: bool) -> nn.Module:
    """Flux with 4 heads of 12 and two blocks of each kind."""
    torch.manual_seed(0)
    made: nn.Module = library("diffusers").FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=12, num_attention_heads=4,
        joint_attention_dim=20, pooled_projection_dim=10, guidance_embeds=guidance, axes_dims_rope=(4, 4, 4),
    )  # fmt: skip
    return made


def flux_inputs(guidance: bool) -> dict[str, Any]:
    """Packed latents with their places, text features and a time step."""
    places = torch.stack(torch.meshgrid(torch.arange(1), torch.arange(3), torch.arange(3), indexing="ij"), -1)
    return {
        "hidden_states": random(2, 9, 16),
        "encoder_hidden_states": random(2, 5, 20, seed=2),
        "pooled_projections": random(2, 10, seed=3),
        "timestep": torch.tensor([0.25, 0.5], dtype=torch.float64),
        "img_ids": places.reshape(9, 3).double(),
        "txt_ids": torch.zeros(5, 3, dtype=torch.float64),
        **({"guidance": torch.tensor([3.5, 3.5], dtype=torch.float64)} if guidance else {}),
    }


def flux(guidance: bool) -> Subject:
    """Flux in diffusers' layout."""
    name = f"diffusers FluxTransformer2DModel (4 heads of 12{', with guidance' if guidance else ''})"
    return diffusers_subject(name, flux_network(guidance), flux_inputs(guidance))


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "dit": (dit,),
    "sd3": (
        partial(sd3, "3"),
        partial(sd3, "3.5 large", RMS_TOLERANCE, qk_norm="rms_norm"),
        partial(sd3, "3.5 medium", RMS_TOLERANCE, qk_norm="rms_norm", dual_attention_layers=(0, 1)),
    ),
    "flux": (partial(flux, False), partial(flux, True)),
}
