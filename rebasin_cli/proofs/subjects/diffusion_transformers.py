"""Diffusion transformers of diffusers: DiT, Stable Diffusion 3, Flux."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects.diffusion import diffusers_subject, random
from rebasin_cli.proofs.subjects.modules import module_subject, randomise
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


class _Block(nn.Module):
    """The block of DiT: scales, shifts and gates from the condition."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        parts, layers = library("timm.models.vision_transformer"), library("timm.layers")
        self.norm1, self.norm2 = (nn.LayerNorm(width, 1e-6, elementwise_affine=False) for _ in range(2))
        self.attn = parts.Attention(width, num_heads=heads, qkv_bias=True)
        self.mlp = layers.Mlp(width, hidden, act_layer=partial(nn.GELU, approximate="tanh"))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.adaLN_modulation(condition)[:, None].chunk(6, -1)
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)  # type: ignore[no-any-return]


class OriginalDiT(nn.Module):
    """The `DiT` of facebookresearch/DiT's models.py (Peebles & Xie 2023), which has no package: same keys and maths."""

    def __init__(self, width: int = 48, heads: int = 6, hidden: int = 40) -> None:
        super().__init__()
        layers = library("timm.layers")
        self.x_embedder = layers.PatchEmbed(8, 2, 4, width)
        self.pos_embed = nn.Parameter(torch.randn(1, 16, width))
        self.t_embedder = nn.ModuleDict(
            {"mlp": nn.Sequential(nn.Linear(20, width), nn.SiLU(), nn.Linear(width, width))}
        )
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(8, width)})
        self.blocks = nn.ModuleList(_Block(width, heads, hidden) for _ in range(2))
        final = {
            "norm_final": nn.LayerNorm(width, 1e-6, elementwise_affine=False),
            "linear": nn.Linear(width, 2 * 2 * 8),
            "adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width)),
        }
        self.final_layer = nn.ModuleDict(final)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The noise and variances in patches, from latents, time steps and classes."""
        angles = t[:, None].double() * torch.exp(-torch.arange(10).double())
        times = self.t_embedder["mlp"](torch.cat([angles.cos(), angles.sin()], -1))
        condition = times + self.y_embedder["embedding_table"](y)
        x = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.final_layer["adaLN_modulation"](condition)[:, None].chunk(2, -1)
        seen = self.final_layer["norm_final"](x) * (1 + scale) + shift
        return self.final_layer["linear"](seen)  # type: ignore[no-any-return]


def original_dit() -> Subject:
    """DiT under its authors' keys, with 6 heads of 8."""
    torch.manual_seed(0)
    inputs = (random(2, 4, 8, 8), torch.tensor([3, 500]), torch.tensor([1, 6]))
    return module_subject("Facebook's DiT (6 heads of 8)", randomise(OriginalDiT()), inputs, config={"num_heads": 6})


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
    "dit-original": (original_dit,),
    "sd3": (
        partial(sd3, "3"),
        partial(sd3, "3.5 large", RMS_TOLERANCE, qk_norm="rms_norm"),
        partial(sd3, "3.5 medium", RMS_TOLERANCE, qk_norm="rms_norm", dual_attention_layers=(0, 1)),
    ),
    "flux": (partial(flux, False), partial(flux, True)),
}
