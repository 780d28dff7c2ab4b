"""The idx format of MNIST and Fashion-MNIST: a short header, then the numbers, big-endian.

The format (Y. LeCun, "The MNIST database"): two zero bytes, a type code, the number of axes, one uint32 for
each axis, then the elements in row-major order.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.checkpoints.zips import check_expanded
from rebasin_cli.errors import ContentError
from rebasin_cli.files import open_regular

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PREFIXES = {"train": "train", "test": "t10k"}


def read_idx_pair(folder: Path, split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """The images (N, height, width) and labels (N,) of one split of a folder in the MNIST layout.

    The files are `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, or `t10k-…` for the test split; each may
    end in `.gz`.

    Raises:
        ContentError: a file is absent, damaged or cut short, or its header is not one of the format.
        OSError: a file cannot be read.
    """
    prefix = _PREFIXES[split]
    images = _find(folder, split, f"{prefix}-images", "idx3-ubyte")
    labels = _find(folder, split, f"{prefix}-labels", "idx1-ubyte")
    return read_idx(images), read_idx(labels)


def read_idx(path: Path) -> Tensor:
    """The array of one idx file, uncompressed or gzip (named `.gz`).

    Raises:
        ContentError: not the format, damaged, or of another length than its header says.
        OSError: it cannot be read.
    """
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if path.suffix != ".gz":
            return _array(file, size, path)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return _array(stream, None, path, size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _corrupt(path, f"its compressed data is damaged or cut short ({error})") from error


def _array(stream: IO[bytes] | gzip.GzipFile, size: int | None, path: Path, packed: int = 0) -> Tensor:
    """The array in a stream.

    Args:
        size: its bytes, None if only reading tells; packed: then those of the compressed file.
    """
    raw = stream.read(4)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES or raw[3] == 0:
        raise _corrupt(path, f"it starts with the bytes {raw[:4].hex(' ') or '(none)'}, which no idx file does")
    dtype, axes = np.dtype(_TYPES[raw[2]]), raw[3]
    start = 4 + 4 * axes
    raw += stream.read(4 * axes)
    if len(raw) < start:
        raise _corrupt(path, f"its header needs {start} bytes and the file has {len(raw)}")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", axes, 4))
    expected = start + dtype.itemsize * math.prod(shape)
    if size is None:
        check_expanded(path, packed, expected, f"shape {shape}", f"gunzip {path.name}")
    elif size != expected:
        raise _corrupt(path, f"shape {shape} needs {expected} bytes and there are {size}")
    content = stream.read(expected - start + 1)
    if len(content) != expected - start:
        found = start + len(content)
        raise _corrupt(
            path, f"shape {shape} needs {expected} bytes and there are {found}{' or more' * (found > expected)}"
        )
    array = np.frombuffer(content, dtype).reshape(shape)
    return torch.from_numpy(array.astype(dtype.newbyteorder("=")))


def _find(folder: Path, split: str, start: str, end: str) -> Path:
    names = [f"{start}{dot}{end}{suffix}" for dot in "-." for suffix in ("", ".gz")]
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise ContentError(
        f"there is no {names[0]} or {names[1]} in the folder",
        where=f"{folder}, {split} split",
        remedy="a folder of data holds idx files with the names of MNIST's, or folders of images, one for each class",
    )


def _corrupt(path: Path, reason: str) -> ContentError:
    return ContentError(
        f"not a readable idx file: {reason}",
        where=str(path),
        remedy="make or download the file again",
    )
