"""Networks of diffusion models: UNets, autoencoders, diffusion transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rebasin_cli.evaluation.proving import Subject

SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {}
