"""Encoders and encoder-decoders of transformers at toy sizes: BERT and its kin, T5, Whisper, CLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects import encoder_decoders, masked_encoders, towers

SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    **masked_encoders.SUBJECTS,
    **encoder_decoders.SUBJECTS,
    **towers.SUBJECTS,
}
