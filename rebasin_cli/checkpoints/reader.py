"""One safetensors file, read lazily.

Tensors come through `pread` into memory of their own. A mapped file would be shorter to write, but its pages count
as the process's memory for as long as they stay, and the promise is that memory is bounded by one tensor. The file
is opened for each read: a model of two hundred shards, times several models, must not run out of file descriptors.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch

from rebasin_cli.checkpoints.dtypes import TensorInfo
from rebasin_cli.checkpoints.failures import system_failure
from rebasin_cli.checkpoints.header import LENGTH_BYTES, Header, header_length, parse_header
from rebasin_cli.checkpoints.kinds import stat_file
from rebasin_cli.errors import SystemFailure

CHUNK = 8 << 20  # bytes in one block of a stream: large enough for the disk, small beside any budget
_MAPPED = 1 << 20  # bytes from which a buffer gets pages of its own


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a file as it streams by.

    Attributes:
        data: 1-D uint8; never shared with another block.
        key: the tensor it is a part of, from a whole element to a whole element; None for anything else.
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
    def read_raw(self, key: str) -> torch.Tensor: ...
    def blocks(self) -> Iterator[Block]: ...


class SafetensorsFile:
    """A safetensors file whose header has been read and checked; see `TensorFile`."""

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._status = stat_file(path)
        self._header = self._read_header()
        self.infos: Mapping[str, TensorInfo] = MappingProxyType({k: e.info for k, e in self._header.entries.items()})
        self.metadata = self._header.metadata

    def read_raw(self, key: str) -> torch.Tensor:
        """The bytes of a tensor, 1-D uint8, in memory that the caller owns."""
        entry = self._header.entries[key]
        return self._read(self._header.data_start + entry.begin, entry.end - entry.begin)

    def blocks(self) -> Iterator[Block]:
        """The whole file once, from its first byte to its last."""
        start = self._header.data_start
        yield Block(self._read(0, start), None, of_file=True)
        for key, entry in self._header.entries.items():
            for begin in range(entry.begin, entry.end, CHUNK):
                size = min(CHUNK, entry.end - begin)
                yield Block(self._read(start + begin, size), key, of_file=True)

    def _read_header(self) -> Header:
        size = self._status.st_size
        first = bytes(self._read(0, min(LENGTH_BYTES, size)).numpy())
        length = header_length(first, size, str(self.path))
        text = bytes(self._read(LENGTH_BYTES, length).numpy())
        return parse_header(text, size - LENGTH_BYTES - length, str(self.path))

    def _read(self, position: int, size: int) -> torch.Tensor:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._check_unchanged(os.fstat(descriptor))
                return _read_exactly(descriptor, position, size, self.path)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise system_failure(error, self.path, "read") from error

    def _check_unchanged(self, now: os.stat_result) -> None:
        """The header that was checked is only worth something while the file is still the same one."""
        before = self._status
        if (now.st_ino, now.st_size, now.st_mtime_ns) != (before.st_ino, before.st_size, before.st_mtime_ns):
            raise SystemFailure(
                f"{self.path} was changed while it was being read", remedy="run again when nothing writes to it"
            )


def read_stream(path: Path) -> Iterator[torch.Tensor]:
    """The bytes of any file in blocks, 1-D uint8 each."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            for position in range(0, size, CHUNK):
                yield _read_exactly(file.fileno(), position, min(CHUNK, size - position), path)
    except OSError as error:
        raise system_failure(error, path, "read") from error


def _read_exactly(descriptor: int, position: int, size: int, path: Path) -> torch.Tensor:
    buffer = _buffer(size)
    view = buffer.numpy().data
    done = 0
    while done < size:  # Linux reads at most 2 GiB at once
        count = os.preadv(descriptor, [view[done:]], position + done)
        if not count:
            raise SystemFailure(
                f"{path} ended at byte {position + done} while it was being read", remedy="run again on a complete file"
            )
        done += count
    return buffer


def _buffer(size: int) -> torch.Tensor:
    """Memory for `size` bytes, 1-D uint8; a large one goes back to the system as soon as it is dropped.

    malloc keeps what was freed below 32 MiB in its heap, in pieces: reading a model of tensors of 20 MiB one by one
    left up to five of them resident.
    """
    if size < _MAPPED:
        return torch.empty(size, dtype=torch.uint8)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)
