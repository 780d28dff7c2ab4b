"""Specs derived from a config.json, on small networks of the same code, for checkpoints of real sizes."""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from rebasin_cli.derivation.derive import Derivation
from rebasin_cli.derivation.instances import saved_shapes
from rebasin_cli.derivation.pretrained import derive_folder
from rebasin_cli.evaluation.libraries import library
from rebasin_cli.spec import bind
from rebasin_cli.spec.binding.layout import Layout
from rebasin_cli.spec.registry import shipped_spec

# model class, config class, what differs from the defaults of the config class, and the shipped spec
MODELS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "GPT-2 124M": ("GPT2LMHeadModel", "GPT2Config", {}, "gpt2"),
    "LLaMA 7B": ("LlamaForCausalLM", "LlamaConfig", {}, "llama"),
    "BERT base": ("BertForMaskedLM", "BertConfig", {}, "bert"),
    "ViT-B/16": ("ViTForImageClassification", "ViTConfig", {"num_labels": 1000}, "vit-hf"),
    "CLIP text": ("CLIPTextModel", "CLIPTextConfig", {}, "sd-text-encoder"),
}


def shapes_of(name: str, config: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return saved_shapes(getattr(library("transformers"), name)(config))


@lru_cache
def real(name: str, folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]], Derivation]:
    model, config_class, changed, _ = MODELS[name]
    config = getattr(library("transformers"), config_class)(**changed)
    config.architectures = [model]
    config.save_pretrained(folder)
    shapes = shapes_of(model, config)
    return json.loads((folder / "config.json").read_text()), shapes, derive_folder(folder, shapes)


def group(layout: Layout) -> Counter[tuple[int, int | None, tuple[str, ...]]]:
    """Every moving dim: its size, that of the dim it is within, and the tensors that it stands in."""
    sizes = {name: dim.size for name, dim in layout.dims.items()}
    found: Counter[tuple[int, int | None, tuple[str, ...]]] = Counter()
    for name in layout.moving():
        owner = layout.dims[name].owner
        found[sizes[name] or 0, sizes[owner] if owner else None, tuple(sorted(layout.users[name]))] += 1
    return found


@pytest.mark.parametrize("name", list(MODELS))
def test_the_spec_of_a_folder_is_that_of_its_family(name: str, tmp_path: Path) -> None:
    config, shapes, found = real(name, tmp_path)
    assert found.holds, found.proof.describe()
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) > 10_000_000
    derived = bind(found.spec, shapes, config=config)
    shipped = bind(shipped_spec(MODELS[name][3]), shapes, config=config)
    assert group(derived) == group(shipped), found.text
