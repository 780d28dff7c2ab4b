"""Decoder-only language models of transformers at toy sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rebasin_cli.evaluation.proving import Subject
from rebasin_cli.evaluation.subjects.pretrained import RMS_TOLERANCE, transformers_subject


def llama() -> Subject:
    """LLaMA with 6 query heads on 2 key/value heads."""
    return transformers_subject(
        "transformers LlamaForCausalLM (6 heads, 2 key/value heads)", "LlamaConfig", "LlamaForCausalLM",
        tolerance=RMS_TOLERANCE, hidden_size=48, num_attention_heads=6, num_key_value_heads=2,
        intermediate_size=40, num_hidden_layers=2, tie_word_embeddings=False,
    )  # fmt: skip


def gpt2() -> Subject:
    """GPT-2 with 4 heads and a tied head."""
    return transformers_subject(
        "transformers GPT2LMHeadModel (4 heads)", "GPT2Config", "GPT2LMHeadModel",
        n_embd=48, n_head=4, n_layer=2, n_positions=16,
    )  # fmt: skip


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {"llama": (llama,), "gpt2": (gpt2,)}
