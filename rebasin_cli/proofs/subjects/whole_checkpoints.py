"""Whole checkpoints of Stable Diffusion: all their networks under one set of keys, run one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.evaluation.running import run_module
from rebasin_cli.proofs.proof import Subject, Trace
from rebasin_cli.proofs.subjects.diffusion import autoencoder, random, text_encoder, text_inputs, unet
from rebasin_cli.proofs.subjects.modules import randomise
from rebasin_cli.proofs.subjects.stable_diffusion import (
    AUTOENCODER,
    OPENCLIP,
    UNET,
    load_openclip,
    load_original_autoencoder,
    load_original_unet,
    openclip_state,
    original_autoencoder_state,
    original_unet_state,
)

OPEN = {"sd2": "cond_stage_model.model.", "sdxl": OPENCLIP}
CLIP = {"sd15": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
HEAD = 64
"""Every CLIP's text heads have this size, and checkpoints have no config.json that could say another."""


def leftovers(unet_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What training leaves in a checkpoint: moving averages, and the noise schedule."""
    averages = {
        f"model_ema.diffusion_model{key.removeprefix(UNET).replace('.', '')}": t for key, t in unet_state.items()
    }
    schedule = torch.linspace(0, 1, 10, dtype=torch.float64)
    return {
        **dict(list(averages.items())[:5]),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(3),
        "betas": schedule,
        "alphas_cumprod": schedule,
        "log_one_minus_alphas_cumprod": schedule,
        "sqrt_recipm1_alphas_cumprod": schedule,
    }


def whole(name: str, unet_heads: int) -> Subject:
    """Tokens to text features, with latents through the UNet, and its output to an image; an image to latents."""
    clip, openclip = randomise(text_encoder(2, HEAD)), randomise(text_encoder(3, HEAD), 1)
    context = (2 * (name in CLIP) + 3 * (name in OPEN)) * HEAD
    network = randomise(unet(name, 32, 2 if name == "sd2" else 1, unet_heads, context=context, pooled=3 * HEAD))
    images = randomise(autoencoder(32, 1))
    unet_state = original_unet_state(network)
    state = {**unet_state, **original_autoencoder_state(images), **leftovers(unet_state)}
    if name in CLIP:
        state |= {CLIP[name] + key: t for key, t in clip.state_dict().items() if key != "text_projection.weight"}
    if name in OPEN:
        state |= openclip_state(openclip, OPEN[name])

    def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        def part(prefix: str) -> dict[str, Tensor]:
            return {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}

        inputs: dict[str, Any] = {"sample": random(1, 4, 8, 8), "timestep": torch.tensor([321])}
        text: list[Mapping[str, Tensor]] = []
        if name in CLIP:
            text_state = {key.removeprefix(CLIP[name]): tensor for key, tensor in part(CLIP[name]).items()}
            clip.load_state_dict(text_state, strict=False, assign=True)
            text.append(run_module(clip, text_inputs(), trace))
        if name in OPEN:
            text.append(run_module(load_openclip(openclip, part(OPEN[name]), OPEN[name]), text_inputs(), trace))
        if name == "sdxl":
            times = torch.tensor([[8.0] * 6])
            inputs["added_cond_kwargs"] = {"text_embeds": text[1]["output.text_embeds"][:1], "time_ids": times}
        inputs["encoder_hidden_states"] = torch.cat([found["output.hidden_states.2"][:1] for found in text], -1)
        denoised = run_module(load_original_unet(network, part(UNET)), inputs, trace)["output.sample"]
        coder: Any = load_original_autoencoder(images, part(AUTOENCODER))
        with torch.no_grad():
            return {
                "image": coder.decode(denoised[:, :, :2, :2]).sample,
                "latents": coder.encode(random(1, 3, 16, 16)).latent_dist.parameters,
            }

    return Subject(f"the networks of diffusers and transformers as a whole {name} checkpoint", state, run)


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "sd15": (partial(whole, "sd15", 8),),
    "sd2": (partial(whole, "sd2", HEAD),),
    "sdxl": (partial(whole, "sdxl", HEAD),),
}
