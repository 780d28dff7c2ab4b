"""Decoders that are not built like LLaMA: GPT-2 and GPT-NeoX, those with ALiBi, and Mamba, at toy sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects.pretrained import RMS_TOLERANCE, transformers_subject
from rebasin_cli.proofs.subjects.variants import under_other_keys, with_extra

_LAYERS = 2
_SIZES: Mapping[str, Any] = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "num_hidden_layers": _LAYERS,
    "initializer_range": 0.2,  # the usual 0.02 makes attention so even that hardly anything changes it
}
_GPT_SIZES: Mapping[str, Any] = {
    "n_embd": 48, "n_head": 4, "n_layer": _LAYERS, "n_inner": 40, "n_positions": 16, "initializer_range": 0.2,
}  # fmt: skip


def gpt2(model_class: str = "GPT2LMHeadModel", **config: Any) -> Subject:
    """GPT-2 with 4 heads and a tied head."""
    return transformers_subject(
        f"transformers {model_class} (4 heads)", "GPT2Config", model_class, **{**_GPT_SIZES, **config}
    )


def published_gpt2() -> Subject:
    """GPT-2 as it was published: keys without `transformer.`, and the causal masks in the file."""
    masks = _buffers("h.{i}.attn.bias", torch.ones(1, 1, 16, 16).tril())
    masks |= _buffers("h.{i}.attn.masked_bias", torch.tensor(-1e4))
    name = "GPT2LMHeadModel without `transformer.`, with masks"
    return with_extra(under_other_keys(gpt2(), name, lambda key: key.removeprefix("transformer.")), name, masks)


def bigcode(**config: Any) -> Subject:
    """GPT-BigCode with 4 query heads on one key/value head, and a tied head."""
    sizes = {**_GPT_SIZES, "attn_pdrop": 0.0, **config}
    return transformers_subject(
        "transformers GPTBigCodeForCausalLM (4 heads, one key/value head)", "GPTBigCodeConfig", "GPTBigCodeForCausalLM",
        **sizes,
    )  # fmt: skip


def neox(note: str = "a quarter of each rotated", **config: Any) -> Subject:
    """GPT-NeoX with 4 heads."""
    return transformers_subject(
        f"transformers GPTNeoXForCausalLM (4 heads, {note})", "GPTNeoXConfig", "GPTNeoXForCausalLM",
        **{**_SIZES, "hidden_size": 64, "rotary_pct": 0.25, **config},
    )  # fmt: skip


def published_pythia() -> Subject:
    """Pythia as it was published: with masks and rotary frequencies in the file."""
    attention = "gpt_neox.layers.{i}.attention."
    masks = _buffers(attention + "bias", torch.ones(1, 1, 16, 16).tril().bool())
    masks |= _buffers(attention + "masked_bias", torch.tensor(-1e9))
    masks |= _buffers(attention + "rotary_emb.inv_freq", torch.ones(2))
    return with_extra(neox(), "GPTNeoXForCausalLM with masks and rotary frequencies", masks)


def gptj(**config: Any) -> Subject:
    """GPT-J with 4 heads, a third of each rotated; its attention is in float32 whatever it is given."""
    return transformers_subject(
        "transformers GPTJForCausalLM (4 heads)", "GPTJConfig", "GPTJForCausalLM", tolerance=RMS_TOLERANCE,
        **{**_GPT_SIZES, "rotary_dim": 4, **config},
    )  # fmt: skip


def gpt_neo(**config: Any) -> Subject:
    """GPT-Neo with 4 heads, whose second layer attends to the last three tokens."""
    return transformers_subject(
        "transformers GPTNeoForCausalLM (4 heads)", "GPTNeoConfig", "GPTNeoForCausalLM", tolerance=RMS_TOLERANCE,
        **{"hidden_size": 48, "num_heads": 4, "intermediate_size": 40, "attention_types": [[["global", "local"], 1]],
           "num_layers": _LAYERS, "max_position_embeddings": 16, "window_size": 3, "initializer_range": 0.2, **config},
    )  # fmt: skip


def bloom() -> Subject:
    """BLOOM with 4 heads and a tied head."""
    return transformers_subject(
        "transformers BloomForCausalLM (4 heads)", "BloomConfig", "BloomForCausalLM",
        hidden_size=48, n_head=4, n_layer=_LAYERS, initializer_range=0.2,
    )  # fmt: skip


def published_bloom() -> Subject:
    """BLOOM as it was published: keys without `transformer.`."""
    return under_other_keys(
        bloom(), "BloomForCausalLM without `transformer.`", lambda key: key.removeprefix("transformer.")
    )


def mpt() -> Subject:
    """MPT with 4 heads and a tied head."""
    return transformers_subject(
        "transformers MptForCausalLM (4 heads)", "MptConfig", "MptForCausalLM",
        d_model=48, n_heads=4, n_layers=_LAYERS, expansion_ratio=2, max_seq_len=32, initializer_range=0.2,
    )  # fmt: skip


def mamba(model_class: str = "Mamba", **config: Any) -> Subject:
    """Mamba with 96 channels, 6 states and time steps of rank 5."""
    return transformers_subject(
        f"transformers {model_class}ForCausalLM", f"{model_class}Config", f"{model_class}ForCausalLM",
        tolerance=RMS_TOLERANCE, hidden_size=48, state_size=6, num_hidden_layers=_LAYERS, time_step_rank=5,
        initializer_range=0.2, **config,
    )  # fmt: skip


def published_mamba() -> Subject:
    """Mamba as its authors published it: `embedding` for `embeddings`."""
    return under_other_keys(
        mamba(), "MambaForCausalLM with `embedding`", lambda key: key.replace(".embeddings.", ".embedding.")
    )


def mamba2(note: str = "", **config: Any) -> Subject:
    """Mamba-2 with six heads of 16 in two groups."""
    sizes = {"hidden_size": 48, "num_heads": 6, "head_dim": 16, "n_groups": 2, "state_size": 5, "chunk_size": 8}
    return transformers_subject(
        f"transformers Mamba2ForCausalLM ({note or 'two groups'})", "Mamba2Config", "Mamba2ForCausalLM",
        tolerance=RMS_TOLERANCE, num_hidden_layers=_LAYERS, initializer_range=0.2, **{**sizes, **config},
    )  # fmt: skip


def opt(note: str = "", **config: Any) -> Subject:
    """OPT with 4 heads and a tied head."""
    sizes = {
        "hidden_size": 48, "num_attention_heads": 4, "ffn_dim": 40, "num_hidden_layers": _LAYERS,
        "max_position_embeddings": 20, "word_embed_proj_dim": 48, "init_std": 0.2,
    }  # fmt: skip
    return transformers_subject(
        f"transformers OPTForCausalLM (4 heads{note})", "OPTConfig", "OPTForCausalLM", **{**sizes, **config}
    )


def falcon(note: str, **config: Any) -> Subject:
    """Falcon with 6 query heads, all of one group or of two."""
    sizes = {**_SIZES, "num_attention_heads": 6, "ffn_hidden_size": 40}
    return transformers_subject(
        f"transformers FalconForCausalLM (6 heads, {note})", "FalconConfig", "FalconForCausalLM", **{**sizes, **config}
    )


def published_opt() -> Subject:
    """OPT as it was published: keys that begin with `decoder.`."""
    return under_other_keys(opt(), "OPTForCausalLM without `model.`", lambda key: key.removeprefix("model."))


def phi(**config: Any) -> Subject:
    """Phi-2 with 6 query heads, half of each rotated, on 2 key/value heads."""
    return transformers_subject(
        "transformers PhiForCausalLM (6 heads, 2 key/value heads, half of each rotated)", "PhiConfig",
        "PhiForCausalLM", **{**_SIZES, "num_attention_heads": 6, "num_key_value_heads": 2, **config},
        partial_rotary_factor=0.5,
    )  # fmt: skip


def _buffers(key: str, value: Tensor) -> dict[str, Tensor]:
    return {key.format(i=i): value for i in range(_LAYERS)}


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "gpt2": (gpt2, partial(gpt2, tie_word_embeddings=False), partial(gpt2, "GPT2DoubleHeadsModel"), published_gpt2),
    "gpt-bigcode": (bigcode, partial(bigcode, tie_word_embeddings=False)),
    "gpt-neox": (
        neox,
        partial(neox, "one after the other", use_parallel_residual=False),
        partial(neox, "rotated as a whole", rotary_pct=1.0),
        partial(neox, "no biases in attention", attention_bias=False, tie_word_embeddings=True),
        published_pythia,
    ),
    "gpt-j": (gptj,),
    "gpt-neo": (gpt_neo, partial(gpt_neo, tie_word_embeddings=False)),
    "bloom": (bloom, published_bloom),
    "mpt": (mpt,),
    "mamba": (
        mamba,
        partial(mamba, use_bias=True),
        partial(mamba, "FalconMamba", tie_word_embeddings=False),
        published_mamba,
    ),
    "mamba2": (mamba2, partial(mamba2, "one group, biases", n_groups=1, use_bias=True)),
    "opt": (
        opt,
        published_opt,
        partial(opt, ", narrower embedding, norms after", word_embed_proj_dim=20, do_layer_norm_before=False),
    ),
    "falcon": (
        partial(falcon, "2 key/value heads", new_decoder_architecture=True, num_kv_heads=2),
        partial(
            falcon,
            "2 key/value heads, one norm",
            new_decoder_architecture=True,
            num_kv_heads=2,
            num_ln_in_parallel_attn=1,
            bias=True,
            tie_word_embeddings=False,
        ),
    ),
    "falcon-7b": (partial(falcon, "one key/value head", multi_query=True),),
    "phi": (phi,),
}
