"""The header of a safetensors file, parsed strictly, and built for a new file; and the element types of the format.

The format: a u64 (little endian) with the header's length, the header in JSON, then the tensors' bytes. A file is
taken only if the header accounts for every byte exactly once: whatever a reader would have to guess about
(duplicate names, holes, overlaps, bytes left over) is refused here, and the error names both facts. The format's own
library refuses most of it too, but accepts duplicate names, of which the last one silently wins.

Headers are read and judged without torch. What makes tensors of bytes is in `tensors`, which imports it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import Any

from rebasin_cli.errors import ContentError, human_bytes
from rebasin_cli.files import parse_json
from rebasin_cli.process import collection_paused

# Bits of one element, for every name that the safetensors format knows (its serialisation library, 0.8).
BITS: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
        "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
        "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
        "I32": 32, "U32": 32, "F32": 32,
        "C64": 64, "F64": 64, "I64": 64, "U64": 64,
    }
)  # fmt: skip

# torch's names for them. F4 is left out: torch's float4 packs two elements into one and halves the shape, so it is
# decoded instead.
TORCH_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32",
        "I64": "int64", "U64": "uint64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
        "C64": "complex64", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu",
        "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    }
)  # fmt: skip

_RECENT = frozenset({"F8_E8M0"})  # since torch 2.7

FLOATS = frozenset(name for name in BITS if name.startswith(("F", "BF", "C")))


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says about one tensor: safetensors name of the element type, and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a 0-d tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes on disk. Types under a byte are packed; a shape that ends inside a byte is refused on reading."""
        return (self.numel * BITS[self.dtype] + 7) // 8


SIGN_BITS: Mapping[str, int] = MappingProxyType(
    {
        "F8_E5M2": 1 << 7, "F8_E4M3": 1 << 7, "F16": 1 << 15, "BF16": 1 << 15, "F32": 1 << 31, "F64": 1 << 63,
        "C64": 1 << 63 | 1 << 31,
    }
)  # fmt: skip
"""The bits that hold the sign of an element; types where these can be turned for every value (not NaN for zero)."""

SCALED_TYPES = ("F16", "BF16", "F32", "F64", "C64")
"""Types whose values may be scaled: of shorter ones too little would be left."""


def has_torch_type(name: str) -> bool:
    """Whether the torch that is installed stores this type element by element; asks it for recent types alone."""
    if name not in _RECENT:
        return name in TORCH_NAMES
    from rebasin_cli.checkpoints.tensors import torch_dtype

    return torch_dtype(name) is not None


def is_floating(name: str) -> bool:
    """Whether values of this type are real or complex numbers: those that may be matched and mixed."""
    return name in FLOATS


LENGTH_BYTES = 8
MAX_HEADER = 100_000_000  # the limit of the format, against headers that only use memory
ALIGNMENT = 8  # the data starts at a multiple of the largest element, so that readers may map it
METADATA = "__metadata__"

_DAMAGED = "the file is damaged or was not written by a safetensors library: download or save it again"
_FIELDS = {"dtype", "shape", "data_offsets"}


_Entry = tuple[int, int, TensorInfo]
"""One tensor: its first byte and the one after its last, from the start of the data. JSON has no tuples."""


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header.

    Attributes:
        infos: the tensors in the order of their data, which follow each other without a gap.
        data_start: the first byte of the data in the file.
    """

    infos: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int

    def positions(self) -> dict[str, int]:
        """The first byte of every tensor in the file."""
        sizes = (info.nbytes for info in self.infos.values())
        return dict(zip(self.infos, accumulate(sizes, initial=self.data_start), strict=False))


class _HeaderError(ValueError):
    """A fault found in the JSON decoder; `parse_header` adds the place."""


def header_length(first: bytes, size: int, where: str) -> int:
    """The length that the first 8 bytes of a file of `size` bytes state, checked against the file.

    Raises:
        ContentError: empty or too short, larger than the format allows, or longer than the file.
    """
    if size < LENGTH_BYTES:
        what = "the file is empty" if not size else f"a file of {size} bytes is too short for safetensors"
        raise ContentError(what, where=where, remedy=_DAMAGED)
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if length > MAX_HEADER:
        raise ContentError(
            f"this is not a safetensors file: its first 8 bytes state a header of {human_bytes(length)}, "
            f"and {human_bytes(MAX_HEADER)} are allowed",
            where=where,
            remedy="checkpoints are read from safetensors files, or from torch's .pt, .pth, .bin and .ckpt",
        )
    if length > size - LENGTH_BYTES:
        raise ContentError(
            f"the file is truncated: its header should have {length} bytes, and {size - LENGTH_BYTES} are there",
            where=where,
            remedy=_DAMAGED,
        )
    return length


@collection_paused()
def parse_header(text: bytes, data_length: int, where: str) -> Header:
    """Check the JSON of a header against the bytes that follow it.

    Args:
        text: the JSON, without the length before it.
        data_length: how many bytes the file has after the header.
    Raises:
        ContentError: with the tensor's name and both numbers, for every way in which the two disagree.
    """
    try:
        entries, metadata = _decode(text)
        if _uncovered(entries, data_length):  # they are in another order than their data, or there is a fault
            # Empty tensors share an offset: a stable sort keeps them in the order of the header.
            entries = dict(sorted(entries.items(), key=lambda item: item[1][:2]))
            if fault := _uncovered(entries, data_length):
                raise _HeaderError(fault)
    except _HeaderError as error:
        raise ContentError(str(error), where=where, remedy=_DAMAGED) from None
    return Header({name: info for name, (_, _, info) in entries.items()}, metadata, LENGTH_BYTES + len(text))


def build_header(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> tuple[bytes, tuple[str, ...]]:
    """Lay out a file before any tensor is read: (length and JSON as bytes, the order of the tensors).

    The order is that of `infos`, unless a tensor would then start at an offset that its elements cannot be
    mapped at: larger elements come first in that case, otherwise in the same order.
    """
    order = tuple(infos)
    if not _aligned(order, infos):
        order = tuple(sorted(infos, key=lambda name: -BITS[infos[name].dtype]))
    table: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    begin = 0
    for name in order:
        info = infos[name]
        end = begin + info.nbytes
        table[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise ContentError(f"{len(order)} tensors need a header of {human_bytes(len(text))}; the format allows 100 MB")
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, order


def _aligned(order: tuple[str, ...], infos: Mapping[str, TensorInfo]) -> bool:
    begin = 0
    for name in order:
        if begin * 8 % BITS[infos[name].dtype] and BITS[infos[name].dtype] > 8:
            return False
        begin += infos[name].nbytes
    return True


def _decode(text: bytes) -> tuple[dict[str, _Entry], Mapping[str, str]]:
    """The tensors, each checked by itself, and the metadata."""
    if not text.startswith(b"{"):
        raise _HeaderError(f"this is not a safetensors file: its header begins with {text[:8]!r} instead of '{{'")
    checked = _unicode_alone if b"\\u" in text else _without_duplicates
    entries = _Entries(checked)
    try:
        table: Any = parse_json(text.decode("utf-8"), object_pairs_hook=entries.or_table, parse_constant=_no_constant)
    except _HeaderError:
        raise
    except UnicodeDecodeError as error:
        raise _HeaderError(f"the header is not UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise _HeaderError(f"the header is not JSON: {error}") from None
    if isinstance(table, tuple):
        raise _HeaderError("the header should map names to tensors, and is one tensor without a name")
    metadata = _metadata(table.pop(METADATA, None))
    return {
        name: fields if isinstance(fields, tuple) else entries.entry(name, fields) for name, fields in table.items()
    }, metadata


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _HeaderError(f"the header has the name {next(n for n in counts if counts[n] > 1)!r} twice")
    return table


def _unicode_alone(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    r"""As `_without_duplicates`, for JSON with escapes: `\ud800` alone is no character."""
    for name, value in pairs:
        for what, text in (("name", name), ("text", value)):
            if isinstance(text, str) and not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise _HeaderError(f"the header has a {what} that is not Unicode text: {text[:100]!r}") from None
    return _without_duplicates(pairs)


def _no_constant(name: str) -> None:
    raise _HeaderError(f"the header is not JSON: {name}")


def _metadata(value: Any) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _HeaderError(f"{METADATA} should map text to text, and is a {type(value).__name__}")
    for name, text in value.items():
        if not isinstance(text, str):
            raise _HeaderError(f"{METADATA} should map text to text, and {name!r} is a {type(text).__name__}")
    return value


class _Entries:
    """The tensors of a header. There may be 100,000: each replaces its JSON object as soon as that is read."""

    def __init__(self, checked: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> None:
        """`checked`: the table of an object's pairs, if they are acceptable."""
        self._checked = checked
        self._known: dict[tuple[str, str], tuple[TensorInfo, int]] = {}  # type and shape -> with its bytes

    def or_table(self, pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Entry:
        """The tensor that an object describes, or the object as it is: metadata, or a faulty tensor."""
        table = self._checked(pairs)
        if table.keys() == _FIELDS:
            try:
                return self.entry("", table)
            except _HeaderError:  # told when its name is known, if it is no metadata
                pass
        return table

    def entry(self, name: str, fields: Any) -> _Entry:
        """Check the fields of one tensor; tensors of one type and shape share what is known of them."""
        if not isinstance(fields, dict) or fields.keys() != _FIELDS:
            found = ", ".join(map(repr, fields)) if isinstance(fields, dict) else type(fields).__name__
            raise _HeaderError(
                f"{name}: the header should give dtype, shape and data_offsets, and gives {found or 'nothing'}"
            )
        dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
        kind = (repr(dtype), repr(shape))  # 1, 1.0 and true are equal, and written differently
        if kind not in self._known:
            info = _info(name, dtype, shape)
            self._known[kind] = (info, info.nbytes)
        info, nbytes = self._known[kind]
        if not _counts(offsets) or len(offsets) != 2:
            raise _HeaderError(f"{name}: data_offsets should be two positions, and is {offsets!r}")
        begin, end = offsets
        if end - begin != nbytes:
            raise _HeaderError(
                f"{name}: {dtype} {list(shape)} needs {nbytes} bytes, and the header gives it {end - begin}"
            )
        return begin, end, info


def _info(name: str, dtype: Any, shape: Any) -> TensorInfo:
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _HeaderError(f"{name}: unknown dtype {dtype!r}; the format has {', '.join(BITS)}")
    if not _counts(shape):
        raise _HeaderError(f"{name}: the shape should be a list of sizes, and is {shape!r}")
    info = TensorInfo(dtype, tuple(shape))
    if math.prod(size for size in shape if size) * BITS[dtype] >= 2**63:
        raise _HeaderError(f"{name}: the shape {shape} is larger than any memory")
    if info.numel * BITS[dtype] % 8:
        raise _HeaderError(
            f"{name}: {info.numel} elements of {dtype} ({BITS[dtype]} bits each) do not end at a whole byte"
        )
    return info


def _counts(value: Any) -> bool:
    """Whether `value` is a list of integers that torch can hold as sizes (bool is an int in Python, not here)."""
    return (
        isinstance(value, list)
        and set(map(type, value)) <= {int}
        and (not value or 0 <= min(value) <= max(value) < 2**63)
    )


def _uncovered(entries: Mapping[str, _Entry], data_length: int) -> str:
    """Why not every byte of the data belongs to exactly one tensor, if these follow each other; else nothing."""
    position, previous = 0, ""
    for name, (begin, end, _) in entries.items():
        if begin > position:
            return f"{name}: starts at byte {begin} and leaves a hole of {begin - position} before it"
        if begin < position:
            return f"{name}: starts at byte {begin}, inside {previous}, which ends at {position}"
        position, previous = end, name
    if position > data_length:
        return f"the file is truncated: its tensors need {position} bytes, and {data_length} are there"
    if position < data_length:
        return f"the file has {data_length - position} bytes after its last tensor, which no tensor claims"
    return ""
