"""The examples that a loss is measured on: arrays of inputs and targets from a few plain formats.

Nothing here knows a network; whether the examples fit one is for `check_fits`.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.checkpoints.reader import SafetensorsFile
from rebasin_cli.checkpoints.tensors import as_tensor, hash_tensors
from rebasin_cli.checkpoints.zips import check_expanded, open_zip
from rebasin_cli.errors import ContentError, RebasinError, UsageError, system_failure
from rebasin_cli.evaluation.idx import read_idx_pair
from rebasin_cli.evaluation.inputs import NAME, Inputs, each, from_names, leaves, rows_of
from rebasin_cli.evaluation.options import Split
from rebasin_cli.files import open_regular

IGNORED = -100
"""The target of a position that is no question (torch's `ignore_index`)."""

_FORMATS = (
    "use a .npz or .safetensors file with `inputs` (N, …), or several `inputs.NAME`, and `targets` (N, …), "
    "a folder of idx files in the MNIST layout, or one of images, with a folder for each class"
)
_INTEGERS = (
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)
_UINT8_MAX = 255
_DEEPEST = 16  # dots in the name of an input
_NPY_HEADER = 1000  # bytes: numbers take 128, and what nests deep in a longer one is beyond Python's parser


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Examples with what is to be answered.

    Attributes:
        inputs: (N, …), or several such tensors; floats are finite. What was uint8 is float32 from 0 to 1. Other
            integers stay as they are.
        targets: int64 class labels, (N,) or (N, positions…), −100 where there is no answer; or finite floats (N, …).
        source: the file or folder, as the user named it.
        split: "train" or "test" where the source has both, otherwise None.
    """

    inputs: Inputs
    targets: Tensor
    source: str
    split: str | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def labelled(self) -> bool:
        """Whether there is an answer to anything."""
        return self.targets.is_floating_point() or bool((self.targets != IGNORED).any())

    def part(self, rows: slice | Tensor) -> Dataset:
        """Some of the examples."""
        return replace(self, inputs=rows_of(self.inputs, rows), targets=self.targets[rows])

    def batches(self, size: int) -> Iterator[Dataset]:
        """All examples in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.part(slice(start, start + size))

    def sha256(self) -> str:
        """Of the examples themselves, wherever they come from."""
        return hash_tensors({**leaves(self.inputs), "targets": self.targets})


def load_data(path: Path, split: Split = "test", limit: int | None = None, *, labels: bool = True) -> Dataset:
    """Read examples from a .npz or .safetensors file or a folder of idx files (`.gz` too).

    Args:
        split: which half of a folder of idx files; the other formats hold one split, and do not look at it.
        limit: how many of the first examples are kept.
        labels: False takes a file without targets, too, which has no answers then.

    Raises:
        UsageError: a limit below 1.
        ContentError: the file is not in a known format, is damaged, or its arrays cannot be inputs and targets.
        SystemFailure: it cannot be read.
    """
    check_limit(limit)
    inputs: Inputs
    try:
        if path.is_dir():
            inputs, targets = read_idx_pair(path, split)
        elif path.suffix.lower() == ".npz":
            inputs, targets = _read_npz(path, labels)
        elif path.suffix.lower() == ".safetensors":
            inputs, targets = _read_safetensors(path, labels)
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


def as_dataset(inputs: Inputs, targets: Tensor, source: str, split: str | None, limit: int | None) -> Dataset:
    """Examples from inputs and targets, checked."""
    _check_targets(targets, source)
    _check_inputs(inputs, targets, source)
    whole = Dataset(inputs, targets, source, split).part(slice(limit))
    several = not isinstance(inputs, Tensor)
    made = each(lambda name, tensor: _as_input(tensor, name, source, several), whole.inputs)
    return replace(whole, inputs=made, targets=_as_targets(whole.targets, source))


def _read_npz(path: Path, labels: bool) -> tuple[Inputs, Tensor]:
    with open(open_regular(path), "rb") as file:
        if not zipfile.is_zipfile(file):
            raise _damaged(path, "an .npz archive", "it is not a zip file, or its end is missing")
        return _from_archive(file, path, labels)


def _from_archive(file: BinaryIO, path: Path, labels: bool) -> tuple[Inputs, Tensor]:
    try:
        with open_zip(file, path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = [info.file_size for name, info in members.items() if name.partition(".")[0] in (NAME, "targets")]
            check_expanded(
                path,
                os.fstat(file.fileno()).st_size,
                sum(wanted),
                "what is in it",
                "np.savez(file, inputs=…, targets=…)",
            )

            def read(name: str) -> Tensor:
                with archive.open(members[name]) as stream:
                    # allow_pickle=False: an array of objects would run code of the file's author
                    array = np.lib.format.read_array(stream, allow_pickle=False, max_header_size=_NPY_HEADER)
                    return _from_numpy(array, name, path)

            return _examples(list(members), read, str(path), labels)
    except RebasinError:
        raise
    except Exception as error:  # whatever zipfile, its decompressors and the parser of numpy's headers raise
        if isinstance(error, OSError) and error.errno is not None:  # bz2 has an OSError of its own, without a number
            raise
        if "Object arrays" not in str(error):
            reason = "it claims more than memory holds" if isinstance(error, MemoryError) else error
            raise _damaged(path, "an .npz archive", reason) from error
        raise ContentError(
            "the file holds pickled objects, which are not read because they can run code",
            where=str(path),
            remedy="save plain arrays: np.savez(file, inputs=…, targets=…) with number dtypes",
        ) from error


def _from_numpy(array: np.ndarray[Any, Any], name: str, path: Path) -> Tensor:
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(native.reshape(array.shape))
    except TypeError as error:
        raise ContentError(
            f"`{name}` is of type {array.dtype}, which is no kind of number that is read",
            where=str(path),
            remedy="save it as float32 or uint8 (inputs), as int64 or float32 (targets)",
        ) from error


def _read_safetensors(path: Path, labels: bool) -> tuple[Inputs, Tensor]:
    try:
        file = SafetensorsFile(path)
    except ContentError as error:
        raise _damaged(path, "a safetensors file", error.what) from error
    return _examples(list(file.infos), lambda name: as_tensor(file.read_raw(name), file.infos[name]), str(path), labels)


def _examples(names: Sequence[str], read: Callable[[str], Tensor], source: str, labels: bool) -> tuple[Inputs, Tensor]:
    """Read `inputs`, or every `inputs.NAME`, and `targets`, which need not be there if `labels` is False."""
    several = [name for name in names if name.startswith(f"{NAME}.")]
    if several and NAME in names:
        raise ContentError(
            f"the data holds both `{NAME}` and `{several[0]}`",
            where=source,
            remedy=f"name one array `{NAME}`, or all of several `{NAME}.NAME`",
        )
    if deep := next((name for name in several if name.count(".") > _DEEPEST), None):
        raise ContentError(
            f"`{deep[:40]}…` nests inputs {deep.count('.')} deep, and {_DEEPEST} are read",
            where=source,
            remedy=f"name the arrays `{NAME}.NAME`, after the arguments of the network's forward",
        )
    for name in (NAME, "targets"):
        if name not in names and not (several if name == NAME else not labels):
            have = ", ".join(f"`{n}`" for n in sorted(names)[:8]) or "nothing"
            raise ContentError(
                f"there is no array `{name}` in the data; it holds {have}",
                where=source,
                remedy="name the arrays `inputs` (N, …), or `inputs.NAME` if there are several, and `targets` (N, …)",
            )
    inputs = from_names({name: read(name) for name in several or [NAME]})
    return inputs, read("targets") if "targets" in names else unanswered(inputs)


def unanswered(inputs: Inputs) -> Tensor:
    """Targets of examples that have none."""
    first = next(iter(leaves(inputs).values()), torch.zeros(0))
    return torch.full((len(first) if first.dim() else 0,), IGNORED)


def _damaged(path: Path, kind: str, error: object) -> ContentError:
    return ContentError(
        f"{path} cannot be read as {kind}: {error}",
        remedy="the file may be cut short or of another kind; make or download it again",
    )


def _check_targets(targets: Tensor, source: str) -> None:
    if targets.dtype not in (*_INTEGERS, torch.bool) and not targets.is_floating_point():
        raise ContentError(
            f"`targets` are {_name(targets)}",
            where=source,
            remedy="save class numbers, counted from 0, as int64, and numbers to be met as float32",
        )
    if targets.ndim < 1:
        raise ContentError(
            f"`targets` have shape {tuple(targets.shape)}, but the first axis counts examples: (N, …)",
            where=source,
            remedy="give every example a target",
        )


def _check_inputs(inputs: Inputs, targets: Tensor, source: str) -> None:
    found = leaves(inputs)
    if not found:
        raise ContentError("there is no tensor among the inputs", where=source, remedy="give at least one")
    least = 2 if isinstance(inputs, Tensor) else 1
    for name, tensor in found.items():
        if tensor.ndim < least:
            raise ContentError(
                f"`{name}` have shape {tuple(tensor.shape)}, but the first axis counts examples: (N, …)",
                where=source,
                remedy="give every example at least one axis of its own",
            )
        if len(tensor) != len(targets):
            called = "inputs" if name == NAME else f"`{name}`"
            raise ContentError(
                f"there are {len(tensor)} {called} and {len(targets)} targets",
                where=source,
                remedy="every example needs one target; the first axis of every array counts examples",
            )
        if tensor.numel() == 0:
            raise ContentError(
                f"the data is empty: `{name}` have shape {tuple(tensor.shape)}",
                where=source,
                remedy="give at least one example",
            )


def _as_input(tensor: Tensor, name: str, source: str, several: bool) -> Tensor:
    """An input as a network takes it: uint8 / 255 as float32, floats checked to be finite.

    Args:
        several: it is one of several, which may be masks.
    """
    if tensor.dtype == torch.uint8:
        return tensor.to(torch.float32) / _UINT8_MAX
    if tensor.is_complex() or (tensor.dtype == torch.bool and not several):
        raise ContentError(
            f"`{name}` are {_name(tensor)}",
            where=source,
            remedy="save them as floats, or as uint8 from 0 to 255, which is divided by 255",
        )
    _require_finite(tensor, name, source)
    return tensor


def _as_targets(targets: Tensor, source: str) -> Tensor:
    """Labels as int64; floats in float32 or better, checked to be finite."""
    if targets.is_floating_point():
        _require_finite(targets, "targets", source)
        return targets if targets.dtype == torch.float64 else targets.to(torch.float32)
    return targets if targets.dtype == torch.bool else targets.to(torch.int64)


def _require_finite(tensor: Tensor, name: str, source: str) -> None:
    if not tensor.is_floating_point():
        return
    bad = ~torch.isfinite(tensor.to(torch.float32) if tensor.itemsize < 4 else tensor)
    if bad.any():
        examples = bad.reshape(len(bad), -1).any(1)
        raise ContentError(
            f"`{name}` hold {int(bad.sum())} values that are NaN or infinite, in {int(examples.sum())} examples, "
            f"the first of them number {int(examples.to(torch.uint8).argmax())}",
            where=source,
            remedy="repair or leave out those examples",
        )


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
