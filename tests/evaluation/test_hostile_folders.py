"""Hugging Face folders that transformers refuses, or would fill the memory with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.libraries import from_folder, library, whole_numbers
from rebasin_cli.evaluation.networks.pretrained import class_named, pretrained_network
from rebasin_cli.evaluation.probes import pretrained_probe
from rebasin_cli.evaluation.text import load_masked_text
from tests.cli.test_transformers import SPECIAL, WORDS, save_tokenizer
from tests.deadline import deadline

BERT = {
    "architectures": ["BertForMaskedLM"], "model_type": "bert", "vocab_size": 44, "hidden_size": 4,
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 4, "max_position_embeddings": 6,
}  # fmt: skip
CHANGES: tuple[Mapping[str, Any], ...] = (
    {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}, {"model_type": None}, {"model_type": "../bert"},
    {"architectures": {"a": 1}}, {"architectures": {}}, {"architectures": 5}, {"architectures": [None]},
    {"architectures": "BertForMaskedLM"}, {"architectures": ["GPT2LMHeadModel"]},
    {"architectures": ["pipelineForMaskedLM"]}, {"architectures": ["AutoModelForMaskedLM"]},
    {"_attn_implementation": "org/kernel"}, {"hidden_act": "none"}, {"pad_token_id": 10**9}, {"vocab_size": -1},
    {"hidden_size": 6}, {"num_attention_heads": 0}, {"label2id": {"x": "y"}, "id2label": 5},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, {"quantization_config": 5},
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tokenizer(tmp_path, SPECIAL + WORDS, cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    (tmp_path / "text.txt").write_text(" ".join(WORDS))
    return tmp_path


def changed(file: Path, change: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps(content))
    return content


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_config_that_does_not_fit(change: Mapping[str, Any], folder: Path) -> None:
    state = library("transformers").BertForMaskedLM(library("transformers").BertConfig(**BERT)).state_dict()
    config = changed(folder / "config.json", change)
    with pytest.raises(ContentError):
        pretrained_network(config, state, folder)
    with pytest.raises(ContentError):
        pretrained_probe(config, folder, state).run_in(torch.float32)(state, None)


@pytest.mark.parametrize("name", ["__class__", "pipeline", "AutoModel", "BertConfig", "torch", "none"])
def test_only_models_are_classes_of_models(name: str, tmp_path: Path) -> None:
    with pytest.raises(ContentError, match=r"transformers .* has no"):
        class_named(name, tmp_path)


@pytest.mark.parametrize("name", ["num_labels", "num_hidden_layers"])
@pytest.mark.parametrize("auto", ["AutoConfig", "AutoTokenizer"])
def test_a_number_of_which_a_list_would_be_made(name: str, auto: str, folder: Path) -> None:
    changed(folder / "config.json", {"text_config": {name: 10**8}})
    with deadline(5), pytest.raises(ContentError, match=f"config.json has {name} = 100000000, and up to 1,000,000"):
        from_folder(auto, folder)


def test_numbers_are_found_however_deep() -> None:
    value: Any = 7
    for _ in range(5000):
        value = {"a": [value]}
    assert list(whole_numbers({"x": 1, "y": ["2", [3]], "z": value})) == [("a", 7), ("y", 3), ("x", 1)]


@pytest.mark.parametrize("length", [-1, 0, 1, None, "x", [], float("nan")])
def test_a_length_that_is_none(length: Any, folder: Path) -> None:
    changed(folder / "tokenizer_config.json", {"model_max_length": length})
    changed(folder / "config.json", {"max_position_embeddings": length})
    try:
        data = load_masked_text(folder / "text.txt", folder, 8, None, 0)
    except ContentError:
        return  # the tokenizer cannot be used with it
    assert data.targets.shape == (len(WORDS) // 6, 8)
