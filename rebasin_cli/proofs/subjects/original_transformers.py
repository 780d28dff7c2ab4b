"""Stable Diffusion 3 and Flux under their original keys, run as the transformers of diffusers.

Originally query, key and value are one tensor (with the MLP, in Flux's single blocks), and the last modulation has
its halves the other way around.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.running import run_module
from rebasin_cli.proofs.proof import Subject, Trace
from rebasin_cli.proofs.subjects.diffusion_transformers import (
    flux_inputs,
    flux_network,
    sd3_inputs,
    sd3_network,
)
from rebasin_cli.proofs.subjects.modules import randomise
from rebasin_cli.proofs.subjects.pretrained import RMS_TOLERANCE

Names = tuple[tuple[str, str], ...]
PREFIX = "model.diffusion_model."

FLUX: Names = (
    (r"time_text_embed\.(timestep|text|guidance)_embedder\.linear_(1|2)\.", r"\1_in.\2_layer."),
    (r"timestep_in\.", "time_in."), (r"text_in\.", "vector_in."),
    (r"\.1_layer", ".in_layer"), (r"\.2_layer", ".out_layer"),
    (r"^context_embedder\.", "txt_in."), (r"^x_embedder\.", "img_in."), (r"^proj_out\.", "final_layer.linear."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."), (r"^single_transformer_blocks", "single_blocks"),
    (r"^transformer_blocks", "double_blocks"),
    (r"norm1\.linear", "img_mod.lin"), (r"norm1_context\.linear", "txt_mod.lin"),
    (r"attn\.norm_added_([qk])\.weight", r"txt_attn.norm.\1_norm.scale"),
    (r"(double_blocks\.\d+)\.attn\.norm_([qk])\.weight", r"\1.img_attn.norm.\2_norm.scale"),
    (r"(single_blocks\.\d+)\.attn\.norm_([qk])\.weight", r"\1.norm.\2_norm.scale"),
    (r"\.q_norm", ".query_norm"), (r"\.k_norm", ".key_norm"),
    (r"attn\.to_out\.0\.", "img_attn.proj."), (r"attn\.to_add_out\.", "txt_attn.proj."),
    (r"attn\.add_([qkv])_proj\.(\w+)", r"txt_attn.qkv.\2#\1"),
    (r"(double_blocks\.\d+)\.attn\.to_([qkv])\.(\w+)", r"\1.img_attn.qkv.\3#\2"),
    (r"(single_blocks\.\d+)\.attn\.to_([qkv])\.(\w+)", r"\1.linear1.\3#\2"),
    (r"proj_mlp\.(\w+)", r"linear1.\1#w"), (r"(single_blocks\.\d+)\.proj_out\.", r"\1.linear2."),
    (r"(single_blocks\.\d+)\.norm\.linear\.", r"\1.modulation.lin."),
    (r"ff_context\.net\.0\.proj\.", "txt_mlp.0."), (r"ff_context\.net\.2\.", "txt_mlp.2."),
    (r"ff\.net\.0\.proj\.", "img_mlp.0."), (r"ff\.net\.2\.", "img_mlp.2."),
)  # fmt: skip
"""What to replace in a key of diffusers, one after the other; `#` and a letter: which piece of a fused tensor it is."""

SD3: Names = (
    (r"^pos_embed\.pos_embed", "pos_embed"), (r"^pos_embed\.proj\.", "x_embedder.proj."),
    (r"time_text_embed\.timestep_embedder\.linear_", "t_embedder.mlp."),
    (r"time_text_embed\.text_embedder\.linear_", "y_embedder.mlp."), (r"embedder\.mlp\.1\.", "embedder.mlp.0."),
    (r"^proj_out\.", "final_layer.linear."), (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"^transformer_blocks", "joint_blocks"), (r"norm1\.linear", "x_block.adaLN_modulation.1"),
    (r"norm1_context\.linear", "context_block.adaLN_modulation.1"),
    (r"attn\.norm_added_([qk])", r"context_block.attn.ln_\1"), (r"\.(attn2?)\.norm_([qk])", r".x_block.\1.ln_\2"),
    (r"\.(attn2?)\.to_out\.0\.", r".x_block.\1.proj."), (r"attn\.to_add_out\.", "context_block.attn.proj."),
    (r"attn\.add_([qkv])_proj\.(\w+)", r"context_block.attn.qkv.\2#\1"),
    (r"\.(attn2?)\.to_([qkv])\.(\w+)", r".x_block.\1.qkv.\3#\2"),
    (r"ff_context\.net\.0\.proj", "context_block.mlp.fc1"), (r"ff_context\.net\.2", "context_block.mlp.fc2"),
    (r"ff\.net\.0\.proj", "x_block.mlp.fc1"), (r"ff\.net\.2", "x_block.mlp.fc2"),
)  # fmt: skip


def fused_names(state: Mapping[str, Tensor], names: Names) -> dict[str, list[str]]:
    """Every original key with the keys of diffusers whose tensors it holds, in order."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key in state:
        original = key
        for pattern, replacement in names:
            original = re.sub(pattern, replacement, original)
        whole, _, piece = original.partition("#")
        found.setdefault(PREFIX + whole, []).append(({"q": "0", "k": "1", "v": "2"}.get(piece, piece), key))
    return {original: [key for _, key in sorted(pieces)] for original, pieces in found.items()}


def _halves_swapped(keys: list[str], last: int) -> bool:
    """Whether diffusers has scale before shift where the original has shift before scale."""
    return keys[0].startswith(("norm_out.linear", f"transformer_blocks.{last}.norm1_context"))


def original_subject(
    title: str, network: nn.Module, names: Names, inputs: Mapping[str, object], last: int, tolerance: float = 1e-9
) -> Subject:
    """A transformer of diffusers under original keys.

    Args:
        last: the block whose modulation of the text has two chunks only, if there is one.
    """
    randomise(network)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    fused = fused_names(network.state_dict(), names)

    def swapped(keys: list[str], tensor: Tensor) -> Tensor:
        return torch.cat(tensor.chunk(2)[::-1]) if _halves_swapped(keys, last) else tensor

    state = {
        original: swapped(keys, torch.cat([network.state_dict()[key] for key in keys])).clone()
        for original, keys in fused.items()
    }

    def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        loaded: dict[str, Tensor] = {}
        for original, keys in fused.items():
            pieces = torch.split(swapped(keys, tensors[original]), [shapes[key][0] for key in keys])
            loaded |= dict(zip(keys, pieces, strict=True))
        network.load_state_dict(loaded, assign=True)
        return run_module(network, inputs, trace)

    return Subject(title, state, run, tolerance=tolerance)


def flux(guidance: bool) -> Subject:
    """Flux under its original keys."""
    title = f"diffusers FluxTransformer2DModel in its original layout{' (with guidance)' if guidance else ''}"
    return original_subject(title, flux_network(guidance), FLUX, flux_inputs(guidance), last=-1)


def sd3(name: str, tolerance: float = 1e-9, **options: object) -> Subject:
    """Stable Diffusion 3 under its original keys, with the heads of 64 that it always has."""
    network = sd3_network(attention_head_dim=64, num_attention_heads=2, caption_projection_dim=128, **options)
    title = f"diffusers SD3Transformer2DModel as {name} in its original layout (2 heads of 64)"
    return original_subject(title, network, SD3, sd3_inputs(), last=2, tolerance=tolerance)


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "flux-original": (partial(flux, False), partial(flux, True)),
    "sd3-original": (
        partial(sd3, "3"),
        partial(sd3, "3.5 large", RMS_TOLERANCE, qk_norm="rms_norm"),
        partial(sd3, "3.5 medium", RMS_TOLERANCE, qk_norm="rms_norm", dual_attention_layers=(0, 1)),
    ),
}
