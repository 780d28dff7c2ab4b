"""Texts as examples for language models: cut into windows of tokens, each token the answer to those before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rebasin_cli.checkpoints import system_failure
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.subjects.libraries import library

SEQUENCE_LENGTH = 512
IGNORED = -100
"""The target of a token that is no question (torch's `ignore_index`)."""


def load_text(path: Path, folder: Path, length: int | None, limit: int | None) -> Dataset:
    """Read a text file and cut it into windows, with the tokenizer that lies beside a checkpoint.

    Args:
        folder: where tokenizer and config.json lie; length: tokens of a window, at most as many as the model takes.
        limit: keep the first so many windows.

    Returns:
        inputs (windows, length) and targets of the same shape: the next token of each, the last one's ignored. What
        is left over at the end is dropped, unless it is all there is.

    Raises:
        ContentError: not a text, too short, or no tokenizer that can be loaded.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ContentError(
            f"{path} is not a text: byte {error.start} is not UTF-8",
            remedy="language models are judged on a plain text file: --data text.txt",
        ) from error
    except OSError as error:
        raise system_failure(error, path, "read") from error
    tokens = _tokens(text, folder)
    length = min(length or SEQUENCE_LENGTH, _longest(folder))
    if len(tokens) < 2:
        raise ContentError(f"{path} has {len(tokens)} tokens, and a prediction needs two", remedy="give a longer text")
    if length < 2:
        raise UsageError(f"--sequence-length {length}: a prediction needs two tokens", remedy="512 is usual")
    count = max(1, len(tokens) // length)
    inputs = torch.tensor(tokens[: count * length]).reshape(count, -1)[:limit]
    targets = torch.full_like(inputs, IGNORED)
    targets[:, :-1] = inputs[:, 1:]
    return Dataset(inputs, targets, str(path))


def _tokens(text: str, folder: Path) -> list[int]:
    transformers = library("transformers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )  # fmt: skip
        found: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
    except Exception as error:
        raise ContentError(
            f"no tokenizer can be loaded: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            where=str(folder),
            remedy="the folder must hold the tokenizer's files; or give tokens with --data package.module:loader",
        ) from error
    return list(found)


def _longest(folder: Path) -> int:
    config = library("transformers").AutoConfig.from_pretrained(str(folder), local_files_only=True)
    longest = getattr(config, "max_position_embeddings", None)
    return int(longest) if longest else SEQUENCE_LENGTH * 1024
