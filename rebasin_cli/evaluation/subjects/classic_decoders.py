"""Decoders that are not built like LLaMA: GPT-2 and GPT-NeoX, those with ALiBi, and Mamba, at toy sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rebasin_cli.evaluation.proving import Subject
from rebasin_cli.evaluation.subjects.pretrained import transformers_subject


def gpt2() -> Subject:
    """GPT-2 with 4 heads and a tied head."""
    return transformers_subject(
        "transformers GPT2LMHeadModel (4 heads)", "GPT2Config", "GPT2LMHeadModel",
        n_embd=48, n_head=4, n_layer=2, n_positions=16,
    )  # fmt: skip


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {"gpt2": (gpt2,)}
