"""The examples that a loss is measured on: arrays of inputs and targets from a few plain formats.

Nothing here knows a network; whether the examples fit one is for `check_fits`.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rebasin_cli.checkpoints import hash_tensors, system_failure
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.idx import read_idx_pair

Split = Literal["train", "test"]

_FORMATS = (
    "use a .npz or .safetensors file with `inputs` (N, …) and `targets` (N,), "
    "a folder of idx files in the MNIST layout, or one of images, with a folder for each class"
)
_LABEL_DTYPES = (
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)
_UINT8_MAX = 255


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Labelled examples.

    Attributes:
        inputs: (N, …); floats, and finite. What was uint8 is float32 from 0 to 1. Other integers stay as they are.
        targets: (N,), int64 class labels; (N, tokens) for a language model, −100 where there is no answer.
        source: the file or folder, as the user named it.
        split: "train" or "test" where the source has both, otherwise None.
    """

    inputs: Tensor
    targets: Tensor
    source: str
    split: str | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def sha256(self) -> str:
        """Of the examples themselves, wherever they come from."""
        return hash_tensors({"inputs": self.inputs, "targets": self.targets})


def load_data(path: Path, split: Split = "test", limit: int | None = None) -> Dataset:
    """Read examples from a .npz or .safetensors file or a folder of idx files (`.gz` too).

    Args:
        split: which half of a folder of idx files; the other formats hold one split, and do not look at it.
        limit: keep the first so many examples.

    Raises:
        UsageError: a limit below 1.
        ContentError: the file is not in a known format, is damaged, or its arrays cannot be inputs and targets.
        SystemFailure: it cannot be read.
    """
    check_limit(limit)
    try:
        if path.is_dir():
            inputs, targets = read_idx_pair(path, split)
        elif path.suffix.lower() == ".npz":
            inputs, targets = _read_npz(path)
        elif path.suffix.lower() == ".safetensors":
            inputs, targets = _read_safetensors(path)
        else:
            path.stat()  # an absent file is told as such, whatever its name
            raise ContentError(f"{path} is not in a format that data can be read from", remedy=_FORMATS)
    except OSError as error:
        raise system_failure(error, path, "read") from error
    return as_dataset(inputs, targets, str(path), split if path.is_dir() else None, limit)


def check_limit(limit: int | None) -> None:
    """Refuse a number of examples below 1."""
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} examples leaves none", remedy="give a limit of at least 1")


def as_dataset(
    inputs: Tensor, targets: Tensor, source: str, split: str | None, limit: int | None, *, tokens: bool = False
) -> Dataset:
    """Examples from a pair of tensors, checked; `tokens`: every example may have a label for each of its tokens."""
    _check_pair(inputs, targets, source, tokens)
    inputs, targets = inputs[:limit], targets[:limit]
    return Dataset(_as_inputs(inputs, source), targets.to(torch.int64), source, split)


def _read_npz(path: Path) -> tuple[Tensor, Tensor]:
    with path.open("rb") as file:  # what the system has to say comes before what numpy makes of it
        if not zipfile.is_zipfile(file):
            raise _damaged(path, "an .npz archive", "it is not a zip file, or its end is missing")
    try:
        # allow_pickle=False: an array of objects would run code of the file's author
        with np.load(path, allow_pickle=False) as arrays:
            _require_names(list(arrays.files), str(path))
            return _from_numpy(arrays, "inputs", path), _from_numpy(arrays, "targets", path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _damaged(path, "an .npz archive", error) from error
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise _damaged(path, "an .npz archive", error) from error
        raise ContentError(
            "the file holds pickled objects, which are not read because they can run code",
            where=str(path),
            remedy="save plain arrays: np.savez(file, inputs=…, targets=…) with number dtypes",
        ) from error


def _from_numpy(arrays: np.lib.npyio.NpzFile, name: str, path: Path) -> Tensor:
    array = arrays[name]
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(native.reshape(array.shape))
    except TypeError as error:
        raise ContentError(
            f"`{name}` is of type {array.dtype}, which is no kind of number that is read",
            where=str(path),
            remedy="save it as float32 or uint8 (inputs) or int64 (targets)",
        ) from error


def _read_safetensors(path: Path) -> tuple[Tensor, Tensor]:
    with path.open("rb"):
        pass
    try:
        with safe_open(path, framework="pt") as tensors:
            _require_names(list(tensors.keys()), str(path))
            return tensors.get_tensor("inputs"), tensors.get_tensor("targets")
    except SafetensorError as error:
        raise _damaged(path, "a safetensors file", error) from error


def _require_names(names: list[str], source: str) -> None:
    for name in ("inputs", "targets"):
        if name not in names:
            have = ", ".join(f"`{n}`" for n in sorted(names)[:8]) or "nothing"
            raise ContentError(
                f"there is no array `{name}` in the data; it holds {have}",
                where=source,
                remedy="name the arrays `inputs` (N, …) and `targets` (N,)",
            )


def _damaged(path: Path, kind: str, error: object) -> ContentError:
    return ContentError(
        f"{path} cannot be read as {kind}: {error}",
        remedy="the file may be cut short or of another kind; make or download it again",
    )


def _check_pair(inputs: Tensor, targets: Tensor, source: str, tokens: bool) -> None:
    if targets.dtype not in _LABEL_DTYPES:
        raise ContentError(
            f"`targets` are {_name(targets)}, but labels are integers",
            where=source,
            remedy="save the class numbers, counted from 0, as int64",
        )
    if targets.ndim != 1 and not (tokens and targets.shape == inputs.shape):
        raise ContentError(
            f"`targets` have shape {tuple(targets.shape)}, but there is one label for each example: (N,)",
            where=source,
            remedy="save class numbers; from one-hot rows they are targets.argmax(1)",
        )
    if inputs.ndim < 2:
        raise ContentError(
            f"`inputs` have shape {tuple(inputs.shape)}, but the first axis counts examples: (N, …)",
            where=source,
            remedy="give every example at least one axis of its own",
        )
    if len(inputs) != len(targets):
        raise ContentError(
            f"there are {len(inputs)} inputs and {len(targets)} targets",
            where=source,
            remedy="every example needs one label",
        )
    if inputs.numel() == 0:
        raise ContentError(
            f"the data is empty: `inputs` have shape {tuple(inputs.shape)}",
            where=source,
            remedy="give at least one example",
        )


def _as_inputs(inputs: Tensor, source: str) -> Tensor:
    """Inputs as a network takes them: uint8 / 255 as float32, floats checked to be finite."""
    if inputs.dtype == torch.uint8:
        return inputs.to(torch.float32) / _UINT8_MAX
    if inputs.dtype == torch.bool or inputs.is_complex():
        raise ContentError(
            f"`inputs` are {_name(inputs)}",
            where=source,
            remedy="save them as floats, or as uint8 from 0 to 255, which is divided by 255",
        )
    if inputs.is_floating_point():
        bad = ~torch.isfinite(inputs.to(torch.float32) if inputs.itemsize < 4 else inputs)
        if bad.any():
            examples = bad.flatten(1).any(1)
            raise ContentError(
                f"`inputs` hold {int(bad.sum())} values that are NaN or infinite, in {int(examples.sum())} examples, "
                f"the first of them number {int(examples.to(torch.uint8).argmax())}",
                where=source,
                remedy="repair or leave out those examples",
            )
    return inputs


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
