"""CLIP and SigLIP at toy sizes: both towers, each alone, and the layout of OpenAI."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject, Trace
from rebasin_cli.proofs.subjects.modules import module_subject, randomise
from rebasin_cli.proofs.subjects.pretrained import RMS_TOLERANCE, pretrained_subject
from rebasin_cli.proofs.subjects.variants import judged_by, under_other_keys, with_extra

_TEXT: Mapping[str, Any] = {
    "vocab_size": 50, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 40,
    "max_position_embeddings": 20, "projection_dim": 28, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_VISION: Mapping[str, Any] = {
    "hidden_size": 60, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 44, "image_size": 24,
    "patch_size": 8, "projection_dim": 28,
}  # fmt: skip


def _inputs(*, text: bool, image: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(3, 50, (2, 12), generator=generator)
    tokens[:, -1] = 49  # CLIP pools where the largest token is
    pixels = torch.randn(2, 3, 24, 24, dtype=torch.float64, generator=generator)
    return ({"input_ids": tokens} if text else {}) | ({"pixel_values": pixels} if image else {})


def both(family: str = "CLIP", **options: Any) -> Subject:
    """A model of two towers; its outputs are the logits and the embeddings, not what happens within."""
    transformers = library("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        text_config=dict(_TEXT, **options), vision_config=dict(_VISION), projection_dim=28
    )
    config._attn_implementation = "eager"
    made = getattr(transformers, f"{family}Model")(config)
    subject = pretrained_subject(f"transformers {family}Model", made, _inputs(text=True, image=True))

    def run(state: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        return {k: v for k, v in subject.run(state, trace).items() if "_model_output" not in k}

    return replace(subject, run=run)


def tower(side: str, model: str) -> Subject:
    """One tower, with all that it returns."""
    transformers = library("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"CLIP{side}Config")(**(_TEXT if side == "Text" else _VISION))
    config._attn_implementation = "eager"
    made = getattr(transformers, f"CLIP{model}")(config)
    inputs = _inputs(text=side == "Text", image=side == "Vision")
    return pretrained_subject(f"transformers CLIP{model}", made, inputs)


def published_tower(side: str, model: str) -> Subject:
    """One tower as files have it that were written before transformers 5."""
    prefix = f"{side.lower()}_model."
    name = f"CLIP{model} with `{prefix}`"
    length = 20 if side == "Text" else 10
    places = {f"{prefix}embeddings.position_ids": torch.arange(length)[None]}
    return with_extra(under_other_keys(tower(side, model), name, lambda key: prefix + key), name, places)


def classifier() -> Subject:
    """The image tower with a classifier."""
    transformers = library("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=dict(_TEXT), vision_config=dict(_VISION), num_labels=7)
    config._attn_implementation = "eager"
    made = transformers.CLIPForImageClassification(config)
    return pretrained_subject("transformers CLIPForImageClassification", made, _inputs(text=False, image=True))


class _QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Block(nn.Module):
    """CLIP's ResidualAttentionBlock; sequence first, as there."""

    def __init__(self, width: int, heads: int, hidden: int, mask: Tensor | None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, hidden), gelu=_QuickGELU(), c_proj=nn.Linear(hidden, width))
        )
        self.ln_2 = nn.LayerNorm(width)
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False, attn_mask=self.mask)[0]
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, hidden: int, mask: Tensor | None = None) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(_Block(width, heads, hidden, mask) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x.permute(1, 0, 2)).permute(1, 0, 2)  # type: ignore[no-any-return]


class _Image(nn.Module):
    """CLIP's VisionTransformer."""

    def __init__(self, width: int, heads: int, hidden: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(10, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = _Transformer(width, 2, heads, hidden)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, out))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj  # type: ignore[no-any-return]


class OpenAIClip(nn.Module):
    """The `CLIP` of openai/CLIP's model.py (Radford et al. 2021), which has no package to install: same keys and maths.

    Heads are of width 64 there; so are they here, two in the text tower and three in the image tower.
    """

    def __init__(self) -> None:
        super().__init__()
        mask = torch.full((12, 12), float("-inf"), dtype=torch.float64).triu(1)
        self.visual = _Image(192, 3, 44, 28)
        self.transformer = _Transformer(128, 2, 2, 40, mask)
        self.token_embedding = nn.Embedding(50, 128)
        self.positional_embedding = nn.Parameter(torch.randn(12, 128))
        self.ln_final = nn.LayerNorm(128)
        self.text_projection = nn.Parameter(torch.randn(128, 28))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Mapping[str, Tensor]:
        """Embeddings of texts and images, and the logits between them."""
        x = self.transformer(self.token_embedding(input_ids) + self.positional_embedding)
        text = self.ln_final(x)[torch.arange(len(x)), input_ids.argmax(-1)] @ self.text_projection
        image = self.visual(pixel_values)
        unit = [each / each.norm(dim=1, keepdim=True) for each in (image, text)]
        return {"logits": self.logit_scale.exp() * unit[0] @ unit[1].T, "text": text, "image": image}


def openai() -> Subject:
    """CLIP under OpenAI's keys."""
    torch.manual_seed(0)
    return module_subject("OpenAI's CLIP", randomise(OpenAIClip()), _inputs(text=True, image=True))


def openai_archive() -> Subject:
    """CLIP as OpenAI's own archives have it: with three numbers about itself."""
    numbers = {k: torch.tensor(v) for k, v in {"input_resolution": 24, "context_length": 12, "vocab_size": 50}.items()}
    return with_extra(openai(), "OpenAI's CLIP with its numbers", numbers)


def openclip() -> Subject:
    """CLIP as OpenCLIP's later files have it: the text tower under `text.`, with its mask."""

    def rename(key: str) -> str:
        return key if key.startswith(("visual.", "logit_scale")) else f"text.{key}"

    name = "OpenCLIP's CLIP, its text tower under `text.`"
    return with_extra(under_other_keys(openai(), name, rename), name, {"text.attn_mask": torch.zeros(12, 12)})


def llava() -> Subject:
    """LLaVA, whose projector reads the last layer but one of the image tower: patches enter the stream of the text."""
    transformers = library("transformers")
    torch.manual_seed(0)
    text = {
        "model_type": "llama", "vocab_size": 50, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2,
        "intermediate_size": 40, "num_hidden_layers": 2, "initializer_range": 0.2, "tie_word_embeddings": False,
    }  # fmt: skip
    vision = {**_VISION, "model_type": "clip_vision_model", "num_hidden_layers": 3}
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=49)
    config._attn_implementation = "eager"
    inputs = _inputs(text=True, image=True)
    inputs["input_ids"] = torch.cat([inputs["input_ids"][:, :4], torch.full((2, 9), 49)], 1)
    made = transformers.LlavaForConditionalGeneration(config)
    subject = pretrained_subject("transformers LlavaForConditionalGeneration", made, inputs, tolerance=RMS_TOLERANCE)
    return judged_by(subject, "output.logits")


def llava_today() -> Subject:
    """LLaVA under the names that recent versions have in memory."""
    names = {"language_model.lm_head": "lm_head", "language_model.model": "model.language_model"}

    def rename(key: str) -> str:
        old = next((old for old in names if key.startswith(old)), "")
        return key.replace(old, names[old]) if old else f"model.{key}"

    return under_other_keys(llava(), "LLaVA under today's names", rename)


TEXT = (partial(tower, "Text", "TextModel"), partial(published_tower, "Text", "TextModel"))
"""Without a projection; Stable Diffusion's text encoder is the same network."""

SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "clip": (both,),
    "clip-vision": (
        partial(tower, "Vision", "VisionModel"),
        partial(published_tower, "Vision", "VisionModel"),
        partial(tower, "Vision", "VisionModelWithProjection"),
        classifier,
    ),
    "clip-openai": (openai, openai_archive, openclip),
    "llava": (llava, llava_today),
    "siglip": (partial(both, "Siglip", projection_size=60),),
}
