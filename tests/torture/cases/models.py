"""Folders of Hugging Face whose models are run: code and kernels that they want to be fetched or imported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.torture.cases import JSONS, NAMES, Case

_CODE = b"open('pwned', 'w').close()\nclass Config:\n    pass\nModel = Tokenizer = Processor = Config\n"
_REMOTE = dict.fromkeys(("AutoConfig", "AutoModelForMaskedLM", "AutoModel"), "evil.Config")
_TOKENIZER = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
_CONFIGS: tuple[dict[str, Any], ...] = (
    {"auto_map": _REMOTE}, {"auto_map": _REMOTE, "model_type": "evil"},
    {"auto_map": _REMOTE, "trust_remote_code": True, "model_type": "evil"},
    {"auto_map": {"AutoConfig": "org/name--evil.Config"}, "model_type": "evil"}, {"auto_map": []},
    {"auto_map": {"AutoConfig": "../evil.Config"}, "model_type": "x"},
    {"architectures": "BertForMaskedLM"}, {"architectures": {}}, {"architectures": {"a": 1}}, {"architectures": 5},
    {"architectures": [None]}, {"architectures": []},
    {"architectures": ["evilForMaskedLM"]}, {"architectures": ["pipelineForMaskedLM"]},
    {"architectures": ["GPT2LMHeadModel"]}, {"architectures": ["__class__"]},
    {"architectures": ["BertForMaskedLM\x1b[31m\nerror: forged"]}, {"architectures": [["BertForMaskedLM"]]},
    {"architectures": ["AutoModelForMaskedLM"]},
    {"_attn_implementation": "kernels-community/flash-attn"}, {"attn_implementation": "evil/kernel:run"},
    {"_attn_implementation": "\x1b[31m"}, {"use_kernels": True},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    {"quantization_config": {"quant_method": "evil"}}, {"quantization_config": 5},
    {"_name_or_path": "http://127.0.0.1/x"}, {"tokenizer_class": "evil.Tokenizer"},
    {"base_model_name_or_path": "org/name"}, {"torch_dtype": "os.system"}, {"dtype": "float99"},
    {"vocab_size": -1}, {"vocab_size": 10**9}, {"vocab_size": "x"}, {"vocab_size": None}, {"hidden_size": 10**7},
    {"hidden_size": 0}, {"num_hidden_layers": 10**6}, {"num_hidden_layers": -1},
    {"hidden_act": "__import__('os').system('touch pwned')"}, {"hidden_act": "\x1b[31m"},
    {"max_position_embeddings": "x"}, {"max_position_embeddings": 0}, {"max_position_embeddings": -5},
    {"pad_token_id": 10**9}, {"label2id": {"x": "y"}}, {"id2label": 5}, {"num_labels": 10**8}, {"model_type": None},
    {"model_type": 5}, {"model_type": ["bert"]}, {"model_type": "../bert"},
    {"chunk_size_feed_forward": "x"}, {"is_decoder": True}, {"transformers_version": "9" * 5000},
    {"text_config": {"model_type": "evil"}}, {"problem_type": "x"}, {"pruned_heads": {"0": [99]}},
)  # fmt: skip


def prepare(stock: Path) -> None:
    """A small BERT with its tokenizer in the stock; loads transformers, so that children have it."""
    import torch

    from rebasin_cli.evaluation.libraries import library
    from tests.torture.stock import inside, run

    transformers = library("transformers")  # first: it is quiet only as the product loads it
    from tests.cli.test_transformers import SPECIAL, WORDS, save_tokenizer

    if (stock / "bert").exists():
        return
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=44, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(stock / "bert")
    save_tokenizer(stock / "bert", SPECIAL + WORDS, cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    (stock / "text.txt").write_text(" ".join(WORDS))
    with inside(stock):
        run(
            *[
                "interpolate",
                "bert",
                "bert",
                "--data",
                "text.txt",
                "--no-align",
                "--steps",
                "2",
                "--sequence-length",
                "8",
            ]
        )


def cases() -> Iterator[Case]:
    """All of them."""
    for at, change in enumerate(_CONFIGS):
        yield Case(f"model/config-{at}", "model", "x", _with("config.json", change))
        if "auto_map" in change:
            yield Case(f"model/tokenizer-{at}", "model", "x", _with("tokenizer_config.json", {"auto_map": _TOKENIZER}))
    for at, change in enumerate(
        (
            {"tokenizer_class": "evil"},
            {"tokenizer_class": 5},
            {"model_max_length": "x"},
            {"model_max_length": -1},
            {"mask_token": 5},
        )
    ):
        yield Case(f"model/tokenizer-value-{at}", "model", "x", _with("tokenizer_config.json", change))
    for at, name in enumerate(NAMES[::4]):
        yield Case(
            f"model/mask-{at}",
            "model",
            "x",
            _with("tokenizer_config.json", {"mask_token": name, "tokenizer_class": name}),
        )
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        for at, data in enumerate(JSONS[::3]):
            yield Case(f"model/{file}-{at}", "model", "x", _with(file, data))


def _with(file: str, change: dict[str, Any] | bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        shutil.copytree(folder.parent / "bert", folder)
        for name in ("evil.py", "modeling_evil.py", "__init__.py"):
            (folder / name).write_bytes(_CODE)
            (folder.parent / name).write_bytes(_CODE)
        path = folder / file
        path.write_bytes(
            change if isinstance(change, bytes) else json.dumps(json.loads(path.read_text()) | change).encode()
        )

    return make
