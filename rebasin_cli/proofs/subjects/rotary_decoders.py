"""LLaMA and the many that are built like it, with and without experts, at toy sizes.

Every width is a different number, so that a pattern with two of them exchanged cannot fit by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject, Trace
from rebasin_cli.proofs.subjects.pretrained import RMS_TOLERANCE, pretrained_subject, transformers_subject
from rebasin_cli.proofs.subjects.variants import judged_by, under_other_keys, with_extra

_SIZES: Mapping[str, Any] = {
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,  # the usual 0.02 makes attention and routing so even that hardly anything changes them
}
_IN_FLOAT64 = {"experts_implementation": "eager"}


def grouped_subject(config_class: str, model_class: str, *, note: str = "", **config: Any) -> Subject:
    """A model with 6 query heads on 2 key/value heads; `note` says what is special about it."""
    return transformers_subject(
        f"transformers {model_class} (6 heads, 2 key/value heads{note})", config_class, model_class,
        tolerance=RMS_TOLERANCE, **{**_SIZES, **config},
    )  # fmt: skip


def old_llama() -> Subject:
    """LLaMA as older releases wrote it: with the rotary frequencies of every layer in the file."""
    frequencies = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4).double() for i in range(2)}
    subject = grouped_subject("LlamaConfig", "LlamaForCausalLM")
    return with_extra(subject, "LlamaForCausalLM with rotary frequencies in its file", frequencies)


def without_prefix() -> Subject:
    """A tied LLaMA whose keys do not begin with `model.`."""
    subject = llama(tie_word_embeddings=True)
    return under_other_keys(subject, "LlamaForCausalLM without `model.`", lambda key: key.removeprefix("model."))


_THEIR_NAMES = {
    "model.": "",
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn": "attention",
    "q_proj": "wq",
    "k_proj": "wk",
    "v_proj": "wv",
    "o_proj": "wo",
    "mlp": "feed_forward",
    "gate_proj": "w1",
    "up_proj": "w3",
    "down_proj": "w2",
}


def consolidated_llama() -> Subject:
    """LLaMA in its authors' layout: under other names, and the units of a rotary pair side by side."""

    def rename(key: str) -> str:
        for ours, theirs in _THEIR_NAMES.items():
            key = key.replace(ours, theirs)
        return key

    name = "LlamaForCausalLM in its authors' layout"
    plain = with_extra(under_other_keys(llama(), name, rename), name, {"rope.freqs": torch.ones(4).double()})

    def laid_out(state: Mapping[str, Tensor], shape: tuple[int, int]) -> dict[str, Tensor]:
        """Rows of each head as `shape`, transposed."""
        turned = {key for key in state if key.endswith((".wq.weight", ".wk.weight"))}
        rows = {key: state[key].view(-1, *shape, 48).transpose(1, 2).flatten(0, 2) for key in turned}
        return {**state, **rows}

    def run(state: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        return plain.run(laid_out(state, (4, 2)), trace)

    return replace(plain, state=laid_out(plain.state, (2, 4)), run=run)


def gemma3_with_images() -> Subject:
    """Gemma 3 as most of its files are: with an image tower, whose output enters the stream of the text."""
    transformers = library("transformers")
    torch.manual_seed(0)
    text = {**_SIZES, "vocab_size": 50, "head_dim": 10, "tie_word_embeddings": True}
    tower = {
        "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 3,
        "image_size": 8, "patch_size": 2,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config=tower, mm_tokens_per_image=4, image_token_index=49, boi_token_index=48,
        eoi_token_index=47,
    )  # fmt: skip
    ids = torch.randint(3, 45, (2, 12), generator=torch.Generator().manual_seed(1))
    ids[:, 3:7] = 49
    inputs = {
        "input_ids": ids,
        "token_type_ids": (ids == 49).long(),
        "pixel_values": torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double(),
    }
    model = transformers.Gemma3ForConditionalGeneration(config)
    name = "transformers Gemma3ForConditionalGeneration (text and images)"
    return judged_by(pretrained_subject(name, model, inputs, tolerance=RMS_TOLERANCE), "output.logits")


llama = partial(grouped_subject, "LlamaConfig", "LlamaForCausalLM")
qwen3 = partial(grouped_subject, "Qwen3Config", "Qwen3ForCausalLM", head_dim=10)
gemma2 = partial(grouped_subject, "Gemma2Config", "Gemma2ForCausalLM", head_dim=10, tie_word_embeddings=True)
gemma3 = partial(grouped_subject, "Gemma3TextConfig", "Gemma3ForCausalLM", head_dim=10, tie_word_embeddings=True)
phi3 = partial(grouped_subject, "Phi3Config", "Phi3ForCausalLM")
partly_rotated_phi3 = partial(phi3, note=", half of each rotated", partial_rotary_factor=0.5)
olmo2 = partial(grouped_subject, "Olmo2Config", "Olmo2ForCausalLM")
olmo3 = partial(grouped_subject, "Olmo3Config", "Olmo3ForCausalLM")
mixtral = partial(
    grouped_subject, "MixtralConfig", "MixtralForCausalLM", note=", 5 experts", num_local_experts=5, load=_IN_FLOAT64
)
_many = partial(
    grouped_subject, note=", 5 experts", num_experts=5, num_experts_per_tok=2, moe_intermediate_size=14,
    shared_expert_intermediate_size=18, load=_IN_FLOAT64,
)  # fmt: skip
qwen2_moe = partial(_many, "Qwen2MoeConfig", "Qwen2MoeForCausalLM")
qwen3_moe = partial(_many, "Qwen3MoeConfig", "Qwen3MoeForCausalLM", head_dim=10)
olmoe = partial(_many, "OlmoeConfig", "OlmoeForCausalLM")
starcoder2 = partial(grouped_subject, "Starcoder2Config", "Starcoder2ForCausalLM")
stablelm = partial(
    grouped_subject, "StableLmConfig", "StableLmForCausalLM", note=", half of each rotated", partial_rotary_factor=0.5
)
nemotron = partial(
    grouped_subject, "NemotronConfig", "NemotronForCausalLM", note=", half of each rotated", partial_rotary_factor=0.5
)
cohere = partial(grouped_subject, "CohereConfig", "CohereForCausalLM", tie_word_embeddings=True)
granite = partial(
    grouped_subject, "GraniteConfig", "GraniteForCausalLM", embedding_multiplier=3.0, residual_multiplier=0.5,
    logits_scaling=2.0,
)  # fmt: skip
olmo = partial(grouped_subject, "OlmoConfig", "OlmoForCausalLM")

SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "llama": (
        llama,
        partial(llama, note=", biases everywhere, tied", attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        partial(llama, note=", one key/value head", num_key_value_heads=1),
        without_prefix,
        partial(grouped_subject, "LlamaConfig", "LlamaForSequenceClassification", num_labels=7),
        old_llama,
        partial(grouped_subject, "MistralConfig", "MistralForCausalLM", head_dim=10),
        partial(grouped_subject, "Qwen2Config", "Qwen2ForCausalLM", tie_word_embeddings=True),
        partial(grouped_subject, "GemmaConfig", "GemmaForCausalLM", head_dim=10, tie_word_embeddings=True),
        granite,
    ),
    "llama-consolidated": (consolidated_llama,),
    "qwen3": (qwen3, partial(qwen3, note=", biases, tied", attention_bias=True, tie_word_embeddings=True)),
    "gemma": (gemma2, gemma3, gemma3_with_images),
    "phi3": (phi3, partly_rotated_phi3),
    "olmo2": (olmo2, olmo3),
    "olmo": (olmo, partial(olmo, note=", tied", tie_word_embeddings=True)),
    "starcoder2": (starcoder2, partial(starcoder2, note=", no biases, tied", use_bias=False, tie_word_embeddings=True)),
    "stablelm": (
        stablelm,
        partial(stablelm, note=", biases, side by side", use_qkv_bias=True, use_parallel_residual=True),
    ),
    "nemotron": (nemotron, partial(nemotron, note=", biases", attention_bias=True, mlp_bias=True)),
    "cohere": (cohere, partial(cohere, note=", a norm for every head", use_qk_norm=True, attention_bias=True)),
    "mixtral": (mixtral,),
    "qwen-moe": (qwen2_moe, qwen3_moe),
    "olmoe": (olmoe,),
}
