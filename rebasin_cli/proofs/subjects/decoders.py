"""Decoder-only language models of transformers at toy sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects import classic_decoders, rotary_decoders

SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {**rotary_decoders.SUBJECTS, **classic_decoders.SUBJECTS}
