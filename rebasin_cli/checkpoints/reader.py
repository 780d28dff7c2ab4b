"""What a file is, from its first bytes; files that are read piece by piece; and one safetensors file.

Names lie: `.bin` holds pickles and safetensors alike, and a failed download leaves an HTML page or a git-lfs pointer
under the right name. Those are recognised here, because "header too large" would not help.

Bytes come through `pread` into memory of their own. A mapped file would be shorter to write, but its pages count
as the process's memory for as long as they stay, and a file that shrinks meanwhile would end the process. The file
is opened for each read: a model of two hundred shards, times several models, must not run out of file descriptors.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rebasin_cli.checkpoints.header import LENGTH_BYTES, MAX_HEADER, Header, TensorInfo, header_length, parse_header
from rebasin_cli.errors import ContentError, SystemFailure, human_bytes, system_failure
from rebasin_cli.files import not_regular, open_regular

if TYPE_CHECKING:  # headers are read without it
    import torch

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


CHUNK = 8 << 20  # bytes in one block of a stream: large enough for the disk, small against any budget
_STREAM_BUFFER = 64 << 10
_LONGEST_LINE = 1 << 16  # of a pickle: names of classes, numbers in decimal


@dataclass(frozen=True, slots=True)
class FileConfig:
    """What a file has in place of a config.json (None: nothing usable), and a note about it."""

    values: Mapping[str, Any] | None
    note: str


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a file in a stream.

    Attributes:
        data: 1-D uint8; never shared with another block.
        key: the tensor of which it is a part, in whole elements; None for anything else.
        of_file: whether these are bytes of the file, in their order (all of them together are the file).
    """

    data: torch.Tensor
    key: str | None
    of_file: bool


class TensorFile(Protocol):
    """What a checkpoint needs of a file, whatever its format."""

    @property
    def path(self) -> Path: ...
    @property
    def infos(self) -> Mapping[str, TensorInfo]: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def config(self) -> FileConfig | None: ...
    def read_raw(self, key: str) -> torch.Tensor: ...
    def blocks(self) -> Iterator[Block]: ...


class StableFile:
    """A regular file that must not change after it was opened, so that its checks hold for every later read."""

    def __init__(self, path: Path) -> None:
        """Raises: SystemFailure: absent, not permitted, or no regular file."""
        self.path = path
        self._status = stat_file(path)
        self.size = self._status.st_size

    def read(self, position: int, size: int) -> torch.Tensor:
        """`size` bytes from `position` on, 1-D uint8, in memory that the caller owns.

        Raises:
            SystemFailure: it cannot be read, ends before, or has been replaced since it was opened.
        """
        from rebasin_cli.checkpoints.tensors import new_bytes

        data = new_bytes(size)
        self.read_into(data.numpy().data, position)
        return data

    def read_bytes(self, position: int, size: int) -> bytes:
        """The same of a header or a record."""
        data = bytearray(size)
        self.read_into(memoryview(data), position)
        return bytes(data)

    def read_into(self, view: memoryview, position: int) -> None:
        """Fill `view` with the bytes from `position` on; see `read`."""
        try:
            descriptor = open_regular(self.path)
            try:
                self._check_unchanged(os.fstat(descriptor))
                _read_exactly(descriptor, view, position, self.path)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise system_failure(error, self.path, "read") from error

    def chunks(self) -> Iterator[torch.Tensor]:
        """The whole file in blocks, 1-D uint8 each."""
        for position in range(0, self.size, CHUNK):
            yield self.read(position, min(CHUNK, self.size - position))

    def stream(self, start: int = 0, end: int | None = None) -> Stream:
        """A stretch of the file as a stream, for parsers that want one."""
        return Stream(_Stretch(self, start, self.size if end is None else end), _STREAM_BUFFER)

    def _check_unchanged(self, now: os.stat_result) -> None:
        before = self._status
        if (now.st_ino, now.st_size, now.st_mtime_ns) != (before.st_ino, before.st_size, before.st_mtime_ns):
            raise SystemFailure(
                f"{self.path} was changed while it was being read", remedy="run again when nothing writes to it"
            )


class _Stretch(io.RawIOBase):
    """Bytes `start` to `end` of a file, seekable; positions count from `start`."""

    def __init__(self, file: StableFile, start: int, end: int) -> None:
        self._file, self._start, self.length, self._position = file, start, end - start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.length}[whence]
        if base + offset < 0:
            raise ValueError("a position before the start of the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self.length - self._position))
        self._file.read_into(view[:count], self._start + self._position)
        self._position += count
        return count


class Stream(io.BufferedReader):
    """A stretch of a file, with lines of a bounded length: a damaged file may have no end of line for gigabytes."""

    def readline(self, size: int | None = -1, /) -> bytes:
        return super().readline(_LONGEST_LINE if size is None or size < 0 else size)


class SafetensorsFile:
    """A safetensors file whose header has been read and checked; see `TensorFile`."""

    notes: tuple[str, ...] = ()
    config: FileConfig | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = StableFile(path)
        self._header = self._read_header()
        self.infos: Mapping[str, TensorInfo] = MappingProxyType(self._header.infos)
        self.metadata = self._header.metadata

    def read_raw(self, key: str) -> torch.Tensor:
        """The bytes of a tensor, 1-D uint8, in memory that the caller owns."""
        return self._file.read(self._positions[key], self.infos[key].nbytes)

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return self._header.positions()

    def blocks(self) -> Iterator[Block]:
        """The whole file once, from its first byte to its last."""
        yield Block(self._file.read(0, self._header.data_start), None, of_file=True)
        for key, begin in self._positions.items():
            end = begin + self.infos[key].nbytes
            for position in range(begin, end, CHUNK):
                yield Block(self._file.read(position, min(CHUNK, end - position)), key, of_file=True)

    def _read_header(self) -> Header:
        size = self._file.size
        first = self._file.read_bytes(0, min(LENGTH_BYTES, size))
        length = header_length(first, size, str(self.path))
        text = self._file.read_bytes(LENGTH_BYTES, length)
        return parse_header(text, size - LENGTH_BYTES - length, str(self.path))


def _read_exactly(descriptor: int, view: memoryview, position: int, path: Path) -> None:
    done = 0
    while done < len(view):  # Linux reads at most 2 GiB at once
        count = os.preadv(descriptor, [view[done:]], position + done)
        if not count:
            raise SystemFailure(
                f"{path} ended at byte {position + done} while it was being read", remedy="run again on a complete file"
            )
        done += count
