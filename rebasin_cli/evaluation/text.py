"""Texts as examples for language models: cut into windows of tokens, of which some are what the model is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.data import IGNORED, Dataset
from rebasin_cli.evaluation.libraries import from_folder, on_files_of_others
from rebasin_cli.files import read_text

SEQUENCE_LENGTH = 512
_LONGEST = 64 << 20  # bytes: some 15 million tokens, on which a small model is evaluated for hours

_OWN_TOKENS = "the folder must hold the tokenizer's files; or give tokens with --data package.module:loader"
_LEAST = 2  # tokens of a window: one to read and one to be asked for; a smaller limit is a mistake in the folder

MASKED = 0.15
"""Share of the tokens that a masked language model is asked for, as in its training (BERT, arXiv:1810.04805)."""


def load_text(path: Path, folder: Path, length: int | None, limit: int | None) -> Dataset:
    """Read a text file and cut it into windows, with the tokenizer that lies beside a checkpoint.

    Args:
        folder: where tokenizer and config.json lie; length: tokens of a window, at most as many as the model takes.
        limit: how many of the first windows are kept.

    Returns:
        inputs (windows, length) and targets of the same shape: the next token of each, the last one's ignored. What
        is left over at the end is dropped, unless it is all there is.

    Raises:
        ContentError: not a text, too short, or no tokenizer that can be loaded.
    """
    tokenizer = _tokenizer(folder)
    length = _length(length, folder, tokenizer)
    inputs = _windows(path, folder, tokenizer, length)[:limit]
    targets = torch.full_like(inputs, IGNORED)
    targets[:, :-1] = inputs[:, 1:]
    return Dataset(inputs, targets, str(path))


def load_masked_text(path: Path, folder: Path, length: int | None, limit: int | None, seed: int) -> Dataset:
    """As `load_text`, for masked language models: some tokens are hidden, and they are the questions.

    Every window stands between the tokenizer's special tokens, where it has them. 15 % of its tokens, one at least,
    become the mask token (always: the random words of BERT's training are for training); which ones, `seed` decides.

    Returns:
        inputs (windows, length), and targets of the same shape: the token behind every mask, all others ignored.

    Raises:
        ContentError: as `load_text`, or the tokenizer has no mask token.
    """
    tokenizer = _tokenizer(folder)
    if tokenizer.mask_token_id is None:
        raise ContentError(
            "the tokenizer has no mask token, and a masked language model is asked for what is masked",
            where=str(folder),
            remedy="the folder must hold the model's own tokenizer; or give tokens with --data package.module:loader",
        )
    around = [[] if token is None else [token] for token in (tokenizer.cls_token_id, tokenizer.sep_token_id)]
    length = _length(length, folder, tokenizer)
    words = _windows(path, folder, tokenizer, max(2, length - sum(map(len, around))))
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(words.shape, generator=generator).argsort(1)  # a random order of each window's places
    hidden = order < max(1, round(MASKED * words.shape[1]))
    inputs = words.masked_fill(hidden, tokenizer.mask_token_id)
    targets = words.masked_fill(~hidden, IGNORED)
    first, last = (torch.tensor(ids, dtype=torch.int64).expand(len(words), -1) for ids in around)
    targets = F.pad(targets, (first.shape[1], last.shape[1]), value=IGNORED)
    return Dataset(torch.cat([first, inputs, last], 1)[:limit], targets[:limit], str(path))


def _windows(path: Path, folder: Path, tokenizer: Any, length: int) -> torch.Tensor:
    """The text's tokens, (windows, length)."""
    remedy = "language models are judged on a plain text file: --data text.txt; a part of a long one is enough"
    text = read_text(path, _LONGEST, "a text", remedy)
    if "\0" in text:
        raise ContentError(f"{path.name} is not a text: it has NUL characters", where=str(path), remedy=remedy)
    with on_files_of_others("the tokenizer fails at the text", _OWN_TOKENS, folder):
        tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if len(tokens) < 2:
        raise ContentError(f"{path} has {len(tokens)} tokens, and a prediction needs two", remedy="give a longer text")
    count = max(1, len(tokens) // length)
    return torch.tensor(tokens[: count * length]).reshape(count, -1)


def _tokenizer(folder: Path) -> Any:
    return from_folder("AutoTokenizer", folder, "no tokenizer can be loaded", _OWN_TOKENS)


def _length(wanted: int | None, folder: Path, tokenizer: Any) -> int:
    """Tokens of a window: as many as were asked for, or as the model and its tokenizer take."""
    config = from_folder("AutoConfig", folder)
    takes = (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length)
    limits = [number for number in takes if isinstance(number, int | float) and number >= _LEAST]
    return int(min([wanted or SEQUENCE_LENGTH, *limits]))
