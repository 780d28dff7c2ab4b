"""NumPy's archives of arrays (.npz): headers are NumPy's to parse, and bytes are read from the file on demand."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, cast

from rebasin_cli.checkpoints.arrays import Found, FoundArray, dtype_of, refused_type
from rebasin_cli.checkpoints.header import BITS, TensorInfo
from rebasin_cli.checkpoints.networks import shown
from rebasin_cli.checkpoints.reader import CHUNK, StableFile
from rebasin_cli.checkpoints.stored import StoredTensor
from rebasin_cli.checkpoints.zips import check_expanded, open_zip, record_start
from rebasin_cli.errors import ContentError, RebasinError

if TYPE_CHECKING:
    import torch

_HEADER = 10_000  # bytes: a header of numbers takes 128
_SAVE = "np.savez(file, **arrays)"
_DAMAGED = "download or save it again: " + _SAVE


def npz_arrays(file: StableFile) -> Found:
    """The arrays of an archive; those of text and dates are left out.

    Raises:
        ContentError: damaged, larger than compressed weights become, with objects, or of a type that is not read.
    """
    where = str(file.path)
    arrays: dict[str, FoundArray] = {}
    others = []
    try:
        with open_zip(file.stream(), file.path) as archive:
            records = archive.infolist()
            total = sum(record.file_size for record in records)
            check_expanded(file.path, file.size, total, "what is in it", _SAVE)
            for record in records:
                name = record.filename.removesuffix(".npy")
                if name in arrays:
                    raise ContentError(f"{shown(name)} is there twice", where=where, remedy=_DAMAGED)
                with archive.open(record) as stream:
                    found = _array(file, record, name, cast(BinaryIO, stream))
                if found is None:
                    others.append(shown(name))
                else:
                    arrays[name] = found
    except RebasinError:
        raise
    except Exception as error:  # whatever zipfile, its decompressors and the parser of NumPy's headers raise
        raise ContentError(f"the archive of arrays is damaged: {error}", where=where, remedy=_DAMAGED) from error
    return Found(arrays, tuple(others))


def _array(file: StableFile, record: zipfile.ZipInfo, name: str, stream: BinaryIO) -> FoundArray | None:
    """An array by its header; None if it holds no numbers."""
    import numpy as np

    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(stream, max_header_size=_HEADER)
    if dtype.hasobject:
        raise ContentError(
            f"{shown(name)} holds pickled objects, which are not read because they can run code", where=str(file.path),
            remedy="save plain arrays of numbers: " + _SAVE,
        )  # fmt: skip
    if dtype.kind in "USMmT":
        return None
    kind = dtype_of(dtype.name)
    if kind is None:
        raise refused_type(name, dtype.name, str(file.path))
    info = TensorInfo(kind, tuple(map(int, shape)))
    if any(size < 0 for size in shape) or stream.tell() + info.nbytes != record.file_size:
        raise ValueError(f"{shown(name)} claims {info.nbytes} bytes, and has {record.file_size - stream.tell()}")
    stride = _strides(info.shape, fortran=fortran)
    stored = StoredTensor(info, b"", 0, stride, swapped=dtype.byteorder == ">")
    return FoundArray(info, _reader(file, record, stored, stream.tell()))


def _strides(shape: tuple[int, ...], *, fortran: bool) -> tuple[int, ...]:
    """Elements from one index to the next, by axis."""
    found, step = [], 1
    for size in shape if fortran else reversed(shape):
        found.append(step)
        step *= size
    return tuple(found if fortran else reversed(found))


def _reader(file: StableFile, record: zipfile.ZipInfo, stored: StoredTensor, header: int) -> Callable[[], torch.Tensor]:
    """What reads an array; `header`: the bytes before its own."""
    start = record_start(file, record)
    if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or record.flag_bits & 1:
        raise ValueError(f"{shown(record.filename)} is compressed in a way that NumPy does not")

    def read() -> torch.Tensor:
        from rebasin_cli.checkpoints.views import read_stored

        if record.compress_type == zipfile.ZIP_STORED:
            return read_stored(stored, lambda position, size: file.read(start + header + position, size))
        data = _inflated(file, start, record, header)
        return read_stored(stored, lambda position, size: data[position : position + size].clone())

    assert BITS[stored.info.dtype] % 8 == 0
    return read


def _inflated(file: StableFile, start: int, record: zipfile.ZipInfo, header: int) -> torch.Tensor:
    """The bytes of a compressed array, never more than the directory says."""
    from rebasin_cli.checkpoints.tensors import new_bytes

    inflate, data, at = zlib.decompressobj(-15), new_bytes(record.file_size), 0
    view = data.numpy().data
    try:
        for begin in range(0, record.compress_size, CHUNK):
            packed = file.read_bytes(start + begin, min(CHUNK, record.compress_size - begin))
            while packed and at < record.file_size:
                piece = inflate.decompress(packed, min(CHUNK, record.file_size - at))
                view[at : at + len(piece)] = piece
                at += len(piece)
                packed = inflate.unconsumed_tail
    except zlib.error as error:
        raise ContentError(
            f"{shown(record.filename)} is damaged: {error}", where=str(file.path), remedy=_DAMAGED
        ) from None
    if at != record.file_size:
        raise ContentError(f"{shown(record.filename)} is cut off", where=str(file.path), remedy=_DAMAGED)
    return data[header:]
