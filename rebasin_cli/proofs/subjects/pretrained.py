"""Subjects from transformers and diffusers: through their own files, so that keys are those found on disk."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.evaluation.running import run_module
from rebasin_cli.proofs.proof import Subject, Trace
from rebasin_cli.proofs.subjects.modules import randomise

RMS_TOLERANCE = 2e-5
"""Most RMSNorms compute in float32 whatever they are given."""


def pretrained_subject(
    name: str,
    model: Any,
    inputs: Mapping[str, Any],
    *,
    overrides: Mapping[str, int] | None = None,
    tolerance: float = 1e-9,
    file: str = "model.safetensors",
    seed: int = 0,
    load: Mapping[str, Any] | None = None,
) -> Subject:
    """A subject from a model with `save_pretrained` and `from_pretrained`.

    Every run writes the permuted state to a folder and loads it as a user would, in float64. Keys that recent
    versions rename in memory are thus proved under the names they have in files.

    Args:
        load: further arguments of `from_pretrained` (kernels that know float64).
    """
    randomise(model, seed)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        state = load_file(str(Path(folder) / file))
        config_text = (Path(folder) / "config.json").read_text()

    def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(config_text)
            save_file({k: v.contiguous() for k, v in tensors.items()}, str(Path(folder) / file), {"format": "pt"})
            network = type(model).from_pretrained(
                folder, torch_dtype=torch.float64, local_files_only=True, trust_remote_code=False, **(load or {})
            )
        network.double().eval()
        return run_module(network, inputs, trace)

    return Subject(name, state, run, json.loads(config_text), overrides or {}, tolerance, network=(model, inputs))


def transformers_subject(
    name: str,
    config_class: str,
    model_class: str,
    *,
    tolerance: float = 1e-9,
    tokens: int = 12,
    load: Mapping[str, Any] | None = None,
    **config: Any,
) -> Subject:
    """A model of transformers from its configuration, run on random tokens of a vocabulary of 50."""
    transformers = library("transformers")
    torch.manual_seed(0)
    defaults = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    made = getattr(transformers, config_class)(**{**defaults, **config})
    made._attn_implementation = "eager"
    model = getattr(transformers, model_class)(made)
    ids = torch.randint(3, 50, (2, tokens), generator=torch.Generator().manual_seed(1))
    return pretrained_subject(name, model, {"input_ids": ids}, tolerance=tolerance, load=load)
