"""The kind of a file, detected from its first bytes and not from its name.

Names lie: `.bin` holds pickles and safetensors alike, and a failed download leaves an HTML page or a git-lfs
pointer under the right name. Those are recognised here, because "header too large" would not help.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Literal

from rebasin_cli.checkpoints.header import LENGTH_BYTES, MAX_HEADER
from rebasin_cli.errors import ContentError, human_bytes, system_failure
from rebasin_cli.files import not_regular, open_regular

Kind = Literal["safetensors", "zip", "pickle", "msgpack", "hdf5"]

_HEAD = 512
_TAR_AT = 257  # where a tar archive has its name, in bytes
_CONVERT = "load it with its own library and save the weights as safetensors, or get the safetensors of the same model"
_PIPE = "pass a pipe's contents with -"
_READS = (
    "checkpoints are read from safetensors files, from torch's .pt, .pth, .bin and .ckpt, and as arrays by name from "
    ".npz, Flax's .msgpack and Keras's .h5"
)

# (how the file begins, what it is, what to do)
_FOREIGN = (
    (
        b"GGUF",
        "a GGUF file, whose weights are packed for llama.cpp and cannot be permuted",
        "use the model it was made of",
    ),
    (b"version https://git-lfs", "a git-lfs pointer and not the weights themselves", "fetch them: git lfs pull"),
    (b"\x93NUMPY", "a NumPy array", _READS),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
)
# Files without typical first bytes are recognised by name, after all others.
_FOREIGN_NAMES = (
    (re.compile(r"\.onnx$"), "an ONNX graph"),
    (re.compile(r"\.tflite$"), "a TensorFlow Lite graph"),
    (re.compile(r"\.pb$"), "a TensorFlow graph"),
    (re.compile(r"\.(?:data-\d+-of-\d+|index|meta)$"), "a part of a TensorFlow checkpoint"),
)
_MAPS = tuple(bytes([0x80 + count]) for count in range(1, 16))  # msgpack's mappings of a few entries
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<head")


def stat_file(path: Path) -> os.stat_result:
    """`path`'s status, if it is a regular file.

    Raises:
        SystemFailure: absent, not permitted, or a pipe or device, which cannot be read twice.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise system_failure(error, path, "read") from error
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise not_regular(path, status.st_mode, _PIPE)
    return status


def kind_of(path: Path) -> Kind:
    """Which reader a file needs.

    Raises:
        SystemFailure: it cannot be read.
        ContentError: it is recognisably something else.
    """
    size = stat_file(path).st_size
    try:
        with open(open_regular(path, _PIPE), "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise system_failure(error, path, "read") from error
    # First: a header of 640 bytes starts with the two bytes that a pickle starts with.
    if int.from_bytes(head[:LENGTH_BYTES], "little") <= MAX_HEADER and head[LENGTH_BYTES:][:1] == b"{":
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[_TAR_AT:].startswith(b"ustar"):
        raise ContentError(
            "this is a tar archive; a torch checkpoint of before 2017 (tar) is not read", where=str(path),
            remedy="unpack it if there are checkpoints in it, or load it with torch and save the state dict again",
        )  # fmt: skip
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if head.startswith(b"\x89HDF\r\n"):
        return "hdf5"
    if path.suffix == ".msgpack" or _is_msgpack(head):
        return "msgpack"
    _refuse_foreign(head, size, path)
    return "safetensors"  # its parser says what is wrong


def _is_msgpack(head: bytes) -> bool:
    """Whether it begins with a map whose first key is a short text."""
    return len(head) > 1 and head[:1] in _MAPS and 0xA0 <= head[1] <= 0xBF


def _refuse_foreign(head: bytes, size: int, path: Path) -> None:
    for start, what, remedy in _FOREIGN:
        if head.startswith(start):
            raise ContentError(f"this is {what}", where=str(path), remedy=remedy)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_PAGES):
        raise ContentError(
            f"this is an HTML page of {human_bytes(size)}, as a failed download leaves it, and not a checkpoint",
            where=str(path),
            remedy="download it again; a gated model needs a login",
        )
    for pattern, what in _FOREIGN_NAMES:
        if pattern.search(path.name) or (b"onnx" in head and "ONNX" in what):
            raise ContentError(f"this is {what}, and not a checkpoint that is read", where=str(path), remedy=_CONVERT)
    if head.strip() and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        line = head[:40].decode("ascii").strip().splitlines()[0]
        raise ContentError(
            f"this is a text file and not a checkpoint; it begins with {line!r}",
            where=str(path),
            remedy=_READS,
        )
