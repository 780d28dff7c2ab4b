"""Folders that hold other things than one network's weights, and what to do with each kind.

A pipeline of diffusers, or weights of another library only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from rebasin_cli.errors import ContentError, RebasinError
from rebasin_cli.files import read_json
from rebasin_cli.safe_text import shell_word

_PIPELINE = "model_index.json"
_JSON_LIMIT = 1 << 20  # bytes
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_SHOWN = 8

# (names of files, what they are)
_OTHERS = (
    (re.compile(r"\.gguf$"), "GGUF (packed for llama.cpp, cannot be permuted)"),
    (re.compile(r"\.onnx$"), "ONNX"),
    (re.compile(r"\.msgpack$"), "Flax (msgpack)"),
    (re.compile(r"\.(?:h5|keras)$"), "Keras"),
    (re.compile(r"\.tflite$"), "TensorFlow Lite"),
    (re.compile(r"^(?:saved_model\.pb|checkpoint|.*\.data-\d+-of-\d+)$"), "TensorFlow"),
)


def refuse_pipeline(folder: Path, names: Collection[str]) -> None:
    """Refuse a pipeline, whose networks lie in folders of their own.

    Args:
        names: the files in the folder.
    Raises:
        ContentError: with the paths to type instead.
    """
    if _PIPELINE not in names:
        return
    try:
        index = read_json(folder / _PIPELINE, _JSON_LIMIT)
        kind = str(index.get("_class_name", ""))[:80] if isinstance(index, Mapping) else ""
        parts = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and _has_weights(entry)]
    except (RebasinError, OSError):
        kind, parts = "", []
    named = [shell_word(str(part)) for part in parts[:_SHOWN]]
    raise ContentError(
        f"this folder is a pipeline{f' ({kind})' if kind.isidentifier() else ''} of several networks",
        where=str(folder),
        remedy=f"name one of them: {', '.join(named)}" if named else "download its networks' folders, and name one",
    )


def refuse_others(folder: Path, names: Collection[str]) -> None:
    """Refuse a folder that has weights, but of another library only.

    Raises:
        ContentError: naming them.
    """
    for pattern, what in _OTHERS:
        found = [name for name in sorted(names) if pattern.search(name)]
        if found:
            raise ContentError(
                f"the folder has weights of {what} only: {', '.join(found[:3])}{' ...' if len(found) > 3 else ''}",
                where=str(folder),
                remedy="get the safetensors of the same model; .msgpack and .h5 are read if the file is named, with a "
                "spec of its names: --arch FILE.yaml",
            )


def _has_weights(folder: Path) -> bool:
    return any(entry.name.endswith(_WEIGHTS) and entry.is_file() for entry in folder.iterdir())
