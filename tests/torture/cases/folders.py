"""Folders of Hugging Face and of shards: config.json and index.json that lie."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.torture.cases import JSONS, NAMES, NUMBERS, Case

_INDEX = "model.safetensors.index.json"
_ONE, _TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
_CONFIG_KEYS = (
    "n",
    "deep",
    "hidden_size",
    "num_attention_heads",
    "model_type",
    "architectures",
    "num_hidden_layers",
    "max_position_embeddings",
)


def cases() -> Iterator[Case]:
    """All of them."""
    for at, data in enumerate(_configs()):
        yield Case(f"config/{at}", "folder", "x", _with({"config.json": data}))
    for at, data in enumerate(_indexes()):
        yield Case(f"index/{at}", "folder", "x", _with({_INDEX: data}))
    for at, make in enumerate(_layouts()):
        yield Case(f"folder/{at}", "folder", "x", make)


def _configs() -> Iterator[bytes]:
    yield from JSONS
    for key in _CONFIG_KEYS:
        for number in NUMBERS:
            yield f'{{"{key}": {number}}}'.encode()
    for number in NUMBERS:
        yield f'{{"deep": {{"n": {number}}}, "text_config": {{"n": {number}}}}}'.encode()
    for name in NAMES:
        yield json.dumps({"model_type": name, "architectures": [name], "_name_or_path": name, "n": name}).encode()
    code = {
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
        "model_type": "evil",
        "architectures": ["Model"],
    }
    yield json.dumps(code).encode()
    yield json.dumps({**code, "trust_remote_code": True, "model_type": "bert"}).encode()
    yield json.dumps(
        {"model_type": "gpt2", "architectures": ["os.system"], "n_layer": 10**9, "vocab_size": 10**12}
    ).encode()
    yield json.dumps({"quantization_config": {"quant_method": "gptq", "bits": "\x1b[31m"}}).encode()
    yield json.dumps({"n": 4, "id2label": {str(at): "x" for at in range(100_000)}}).encode()


def _indexes() -> Iterator[bytes]:
    yield from JSONS
    honest = {
        "fc.0.weight": _ONE,
        "fc.0.bias": _ONE,
        **{f"fc.{at}.{kind}": _TWO for at in (1, 2) for kind in ("weight", "bias")},
    }
    targets = (
        "../a.safetensors",
        "../../x",
        "/etc/passwd",
        "..\\a.safetensors",
        "C:\\x",
        "\\\\host\\x",
        "",
        ".",
        "..",
        "./" + _ONE,
        "sub/" + _ONE,
        "absent.safetensors",
        _INDEX,
        "config.json",
        "n" * 4000,
    )
    for name in (
        *targets,
        *NAMES,
        "a\x00b",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
        "file:///etc/passwd",
        "http://127.0.0.1/x.safetensors",
    ):
        yield json.dumps({"weight_map": {**honest, "fc.0.weight": name}}).encode()
    for name in NAMES:
        yield json.dumps({"weight_map": {**honest, name: _ONE}}).encode()
    for value in (None, 1, True, [], {}, [_ONE], {"a": 1}, 1.5):
        yield json.dumps({"weight_map": {**honest, "fc.0.weight": value}}).encode()
        yield json.dumps({"weight_map": value}).encode()
        yield json.dumps({"weight_map": honest, "metadata": value}).encode()
    yield json.dumps({"weight_map": {k: v for k, v in honest.items() if v == _ONE}}).encode()
    yield json.dumps({"weight_map": dict.fromkeys(honest, _ONE)}).encode()
    yield json.dumps({"weight_map": {f"t.{at}": f"{at}.safetensors" for at in range(20_000)}}).encode()
    yield json.dumps({"weight_map": {f"t.{at}": _ONE for at in range(100_000)}}).encode()
    yield json.dumps(
        {"weight_map": honest, "metadata": {"x": "\x1b[31m\nerror: forged", "total_size": 10**400}}
    ).encode()


def _layouts() -> Iterator[Callable[[Path], None]]:
    yield _with({_ONE: None})
    yield _with({_ONE: b""})
    yield _with({"model.safetensors": b"x"})
    yield _with({_INDEX: None, _ONE: None})
    yield _with(
        {"tokenizer.json": b"\x00" * 100, "evil.py": b"open('pwned', 'w')", "modeling_evil.py": b"open('pwned', 'w')"}
    )
    yield _with(
        {
            "__init__.py": b"open('pwned', 'w')",
            "torch.py": b"open('pwned', 'w')",
            "sitecustomize.py": b"open('pwned', 'w')",
        }
    )
    for name in ("\x1b[31m", "a\nerror: forged", "\u202egnp", "[b]"):
        yield _with({f"{name}.safetensors": b"x", f"{name}.json": b"{}"})
        yield _with({_INDEX: None, _ONE: None, _TWO: None, f"{name}.txt": b"x"})
    for target in ("x", ".", "..", "/etc/passwd", "/dev/zero", _ONE, "absent"):
        for name in (_ONE, _INDEX, "config.json", "link.txt"):
            yield _with({name: None}, lambda folder, name=name, target=target: os.symlink(target, folder / name))
    yield _with({}, lambda folder: [(folder / f"{at}.txt").write_text("x") for at in range(2_000)])


def _with(files: dict[str, bytes | None], then: Callable[[Path], object] | None = None) -> Callable[[Path], None]:
    """A copy of the stock's folder in which some files are others, or are not there."""

    def make(folder: Path) -> None:
        shutil.copytree(folder.parent / "m", folder)
        for name, data in files.items():
            (folder / name).unlink(missing_ok=True)
            if data is not None:
                (folder / name).write_bytes(data)
        if then:
            then(folder)

    return make
