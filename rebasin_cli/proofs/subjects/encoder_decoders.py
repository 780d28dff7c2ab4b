"""T5, Whisper and BART's kin at toy sizes, with different numbers of heads in encoder and decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject, Trace
from rebasin_cli.proofs.subjects.pretrained import RMS_TOLERANCE, pretrained_subject
from rebasin_cli.proofs.subjects.variants import under_other_keys, with_extra

_STACKS: Mapping[str, Any] = {
    "vocab_size": 50, "d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 6,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 44, "init_std": 0.2, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


def made(family: str, model: str, **config: Any) -> Any:
    """A network of transformers with plain attention."""
    transformers = library("transformers")
    torch.manual_seed(0)
    built = getattr(transformers, f"{family}Config")(**config)
    built._attn_implementation = "eager"
    return getattr(transformers, f"{family}{model}")(built)


def tokens(length: int, seed: int = 1) -> torch.Tensor:
    """Two sequences of a vocabulary of 50."""
    return torch.randint(3, 50, (2, length), generator=torch.Generator().manual_seed(seed))


def logits_of(subject: Subject) -> Subject:
    """The subject without what the encoder hands to the decoder, which models return beside the logits."""

    def run(state: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        return {k: v for k, v in subject.run(state, trace).items() if not k.startswith("output.encoder_")}

    return replace(subject, run=run)


def t5(model: str = "ForConditionalGeneration", family: str = "T5", **config: Any) -> Subject:
    """T5 with 5 heads of width 8 in a stream of 48; its RMSNorm is in float32.

    Its library ties every head, and leaves one alone whose file holds another tensor: so v1.1 was published.
    """
    network = made(
        family, model, vocab_size=50, d_model=48, d_kv=8, d_ff=40, num_layers=2, num_decoder_layers=3, num_heads=5,
        pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, **config,
    )  # fmt: skip
    if config.get("tie_word_embeddings") is False:
        network.config.tie_word_embeddings = False
        network.lm_head.weight = nn.Parameter(torch.randn(50, 48))
    inputs = {"input_ids": tokens(12)}
    if model != "EncoderModel":
        inputs["decoder_input_ids"] = tokens(9, seed=2)
    kind = ", ".join(f"{k}={v}" for k, v in config.items())
    name = f"transformers {family}{model}" + (f" ({kind})" if kind else "")
    return logits_of(pretrained_subject(name, network, inputs, tolerance=RMS_TOLERANCE))


def published_t5() -> Subject:
    """T5 as it was published: the embedding and the head under every name, and a bias that nobody reads."""
    plain = t5()
    shared = plain.state["shared.weight"]
    extra = {f"{stack}.embed_tokens.weight": shared.clone() for stack in ("encoder", "decoder")}
    extra["lm_head.weight"] = shared.clone()
    tie = ("shared.weight", *extra)
    bias = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    extra[bias] = torch.ones(32, 5, dtype=torch.float64)
    published = with_extra(plain, "T5ForConditionalGeneration as it was published", extra)
    return replace(published, ties=(tie,))


def whisper(**config: Any) -> Subject:
    """Whisper on 24 frames of 10 frequencies."""
    network = made(
        "Whisper", "ForConditionalGeneration", **{**_STACKS, **config}, num_mel_bins=10, max_source_positions=12,
        max_target_positions=14, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    sound = torch.randn(2, 10, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    inputs = {"input_features": sound, "decoder_input_ids": tokens(9)}
    return logits_of(pretrained_subject("transformers WhisperForConditionalGeneration", network, inputs))


def openai_whisper() -> Subject:
    """Whisper under OpenAI's keys (openai/whisper's model.py), with heads of width 64 as there."""
    words = {
        "model.": "", ".layers.": ".blocks.", "encoder_attn": "cross_attn",
        "self_attn": "attn", "attn_layer_norm": "attn_ln", "final_layer_norm": "mlp_ln", "q_proj": "query",
        "k_proj": "key", "v_proj": "value", "out_proj": "out", "fc1": "mlp.0", "fc2": "mlp.2",
        "encoder.layer_norm": "encoder.ln_post", "decoder.layer_norm": "decoder.ln",
        "embed_positions.weight": "positional_embedding", "embed_tokens": "token_embedding",
    }  # fmt: skip
    plain = whisper(d_model=128, encoder_attention_heads=2, decoder_attention_heads=2)
    return replace(under_other_keys(plain, "Whisper under OpenAI's keys", words), config=None)


def bart(model: str, family: str, **config: Any) -> Subject:
    """BART or one of its kin."""
    sizes = {**_STACKS, "max_position_embeddings": 20, "forced_eos_token_id": None, **config}
    network = made(family, model, **sizes)
    inputs = {"input_ids": tokens(12), "decoder_input_ids": tokens(9, seed=2)}
    if "Classification" in model:
        inputs = {"input_ids": torch.cat([tokens(12), torch.full((2, 1), 2)], 1)}  # it reads where the text ends
    return logits_of(pretrained_subject(f"transformers {family}{model}", network, inputs))


def published_marian() -> Subject:
    """Marian in files that hold the positions: a network then reads them from there."""
    plain = bart("MTModel", "Marian")
    places = library("transformers.models.marian.modeling_marian").MarianSinusoidalPositionalEmbedding(20, 48)
    sines = {f"model.{s}.embed_positions.weight": places.create_weight().double() for s in ("encoder", "decoder")}
    return replace(plain, name="MarianMTModel with its positions", state={**plain.state, **sines})


_GENERATE = "ForConditionalGeneration"

SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "t5": (
        t5,
        partial(t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        partial(t5, family="MT5", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        published_t5,
    ),
    "t5-encoder": (
        partial(t5, "EncoderModel", feed_forward_proj="gated-gelu"),
        partial(t5, "EncoderModel"),
    ),
    "whisper": (whisper, partial(whisper, tie_word_embeddings=False)),
    "whisper-openai": (openai_whisper,),
    "bart": (
        partial(bart, _GENERATE, "Bart"),
        partial(bart, "ForSequenceClassification", "Bart", num_labels=5),
        partial(bart, _GENERATE, "MBart"),
        partial(bart, "MTModel", "Marian"),
        published_marian,
        partial(bart, _GENERATE, "Pegasus"),
        partial(bart, _GENERATE, "M2M100"),
    ),
}
