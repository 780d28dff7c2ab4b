"""Flax's files (.msgpack), as `flax.serialization.to_bytes` writes them: maps of names, with arrays as extensions.

A library would read the whole file, and a hostile one becomes many times its size in memory. Of the format
(https://github.com/msgpack/msgpack/blob/master/spec.md) only what nests is followed here, and bytes of arrays are
passed over: they are read from the file on demand. An array is (shape, name of its type, bytes), packed as
extension 1, or 3 for a scalar; one above a gigabyte is a map of pieces.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from rebasin_cli.checkpoints.arrays import MOST_ARRAYS, Found, FoundArray, dtype_of, refused_type
from rebasin_cli.checkpoints.header import TensorInfo
from rebasin_cli.checkpoints.networks import shown
from rebasin_cli.checkpoints.reader import StableFile, Stream
from rebasin_cli.errors import ContentError

if TYPE_CHECKING:
    import torch

_ARRAYS = (1, 3)  # extensions that hold an array
_CHUNKED = "__msgpack_chunked_array__"
_DEEPEST = 64
_MOST_VALUES = 10 * MOST_ARRAYS
_LONGEST = 1 << 16  # bytes of a text
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
    0xD3: ">q",
}  # fmt: skip
# first byte -> the form of the count that follows
_TEXTS, _BYTES, _EXTENSIONS = ({b + i: f for i, f in enumerate((">B", ">H", ">I"))} for b in (0xD9, 0xC4, 0xC7))
_LISTS, _MAPS = ({b + i: f for i, f in enumerate((">H", ">I"))} for b in (0xDC, 0xDE))


class _FaultError(Exception):
    """The file is not what Flax writes."""


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A stretch of the file: where it begins, and how long it is."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Array:
    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[_Bytes, ...]


def flax_arrays(file: StableFile) -> Found:
    """The arrays of a file; names are joined by dots, as in `params.Dense_0.kernel`.

    Raises:
        ContentError: no msgpack, damaged, nested without end, or with a type that is not read.
    """
    where = str(file.path)
    arrays: dict[str, FoundArray] = {}
    others: list[str] = []
    try:
        parser = _Parser(file.stream(), file.size)
        root = parser.value(0)
        if parser.position() != file.size:
            raise _FaultError("it goes on after its end")
        if not isinstance(root, dict):
            raise _FaultError("it is no map of names")
        for name, value in _leaves(root, ()):
            if isinstance(value, _Array):
                arrays[name] = _found(file, name, value)
            else:
                others.append(shown(name))
    except _FaultError as error:
        raise ContentError(
            f"this is no file of Flax, or damaged: {error}", where=where,
            remedy="write it again: file.write(flax.serialization.to_bytes(params))",
        ) from None  # fmt: skip
    return Found(arrays, tuple(others))


def _found(file: StableFile, name: str, array: _Array) -> FoundArray:
    kind = dtype_of(array.dtype)
    if kind is None:
        raise refused_type(name, array.dtype, str(file.path))
    info = TensorInfo(kind, array.shape)
    held = sum(piece.size for piece in array.pieces)
    if prod(size for size in array.shape if size) >= 1 << 60 or info.nbytes != held:
        raise _FaultError(f"{shown(name)} of shape {list(array.shape)} has {held} bytes")
    return FoundArray(info, _reader(file, array.pieces))


def _reader(file: StableFile, pieces: Sequence[_Bytes]) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        import torch

        read = [file.read(piece.start, piece.size) for piece in pieces]
        return read[0] if len(read) == 1 else torch.cat(read)

    return read


def _leaves(value: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        name = (*path, key)
        inner = _joined(inner) if isinstance(inner, dict) and _CHUNKED in inner else inner
        if isinstance(inner, dict):
            yield from _leaves(inner, name)
        else:
            yield ".".join(name), inner


def _joined(value: Mapping[str, Any]) -> _Array:
    """An array that was written in pieces."""
    shape, chunks = value.get("shape"), value.get("chunks")
    if not isinstance(shape, dict) or not isinstance(chunks, dict) or not chunks:
        raise _FaultError("an array in pieces has no shape, or no pieces")
    parts = [chunks.get(str(i)) for i in range(len(chunks))]
    sizes: list[Any] = [shape.get(str(i)) for i in range(len(shape))]
    whole = [part for part in parts if isinstance(part, _Array)]
    if len(whole) != len(parts) or len({part.dtype for part in whole}) != 1 or not all(map(_is_size, sizes)):
        raise _FaultError("the pieces of an array do not fit one another")
    return _Array(tuple(sizes), whole[0].dtype, tuple(piece for part in whole for piece in part.pieces))


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0


class _Parser:
    """Values of the format; bytes are left where they are."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream, self._size, self._left = stream, size, _MOST_VALUES

    def position(self) -> int:
        return self._stream.tell()

    def value(self, depth: int) -> Any:
        """The next value: maps and lists as dicts, arrays as `_Array`, bytes as `_Bytes`, texts and numbers."""
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            raise _FaultError("it nests too deeply, or has too many values")
        first = self._take(1)[0]
        if first <= 0x7F or first >= 0xE0:
            return first if first <= 0x7F else first - 256
        if first <= 0x8F or first in _MAPS:
            return self._map(first & 0x0F if first <= 0x8F else self._number(_MAPS[first]), depth)
        if first <= 0x9F or first in _LISTS:
            count = first & 0x0F if first <= 0x9F else self._number(_LISTS[first])
            return {str(i): self.value(depth + 1) for i in range(self._possible(count))}
        if first <= 0xBF or first in _TEXTS:
            return self._text(first & 0x1F if first <= 0xBF else self._number(_TEXTS[first]))
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if first in _NUMBERS:
            return self._number(_NUMBERS[first])
        if first in _BYTES:
            return self._skip(self._number(_BYTES[first]))
        if first in _EXTENSIONS or 0xD4 <= first <= 0xD8:
            size = self._number(_EXTENSIONS[first]) if first in _EXTENSIONS else 1 << (first - 0xD4)
            return self._extension(size, depth)
        raise _FaultError(f"byte {self.position() - 1} begins nothing")

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(self._possible(count)):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in found:
                raise _FaultError("a map has a key that is no text, or one twice")
            found[key] = self.value(depth + 1)
        return found

    def _extension(self, size: int, depth: int) -> Any:
        kind = struct.unpack(">b", self._take(1))[0]
        end = self.position() + size
        if kind not in _ARRAYS:
            return self._skip(size)
        match self.value(depth + 1):
            case {"0": dict(shape), "1": str(dtype), "2": _Bytes() as data} if self.position() == end:
                if all(map(_is_size, shape.values())):
                    return _Array(tuple(shape.values()), dtype, (data,))
        raise _FaultError("an array is not shape, type and bytes")

    def _possible(self, count: int) -> int:
        if count > self._size - self.position():
            raise _FaultError("it is cut off")
        return count

    def _text(self, size: int) -> str:
        if size > _LONGEST:
            raise _FaultError(f"a text has {size:,} bytes")
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise _FaultError("a text is none") from None

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _skip(self, size: int) -> _Bytes:
        place = _Bytes(self.position(), size)
        if place.start + size > self._size:
            raise _FaultError("it is cut off")
        self._stream.seek(place.start + size)
        return place

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise _FaultError("it is cut off")
        return data
