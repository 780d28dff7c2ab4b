"""Files that are read piece by piece, and one safetensors file.

Bytes come through `pread` into memory of their own. A mapped file would be shorter to write, but its pages count
as the process's memory for as long as they stay, and a file that shrinks meanwhile would end the process. The file
is opened for each read: a model of two hundred shards, times several models, must not run out of file descriptors.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from rebasin_cli.checkpoints.header import LENGTH_BYTES, Header, TensorInfo, header_length, parse_header
from rebasin_cli.checkpoints.kinds import stat_file
from rebasin_cli.errors import SystemFailure, system_failure
from rebasin_cli.files import open_regular

if TYPE_CHECKING:  # headers are read without it
    import torch

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
