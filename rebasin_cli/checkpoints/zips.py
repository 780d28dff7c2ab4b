"""Zip archives of others: `zipfile` would read a directory of any size into memory."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import BinaryIO, cast

from rebasin_cli.checkpoints.reader import StableFile
from rebasin_cli.errors import ContentError, human_bytes

_DIRECTORY = 16 << 20  # bytes of the directory: some 150,000 records
_LOCAL_HEADER = 30  # bytes; name and extra field follow it
_EXPANDED = 256 << 20  # bytes that a compressed file may become in any case
_RATIO = 50  # times its own size that it may become besides: images and texts are compressed 2 to 20 times


def open_zip(stream: BinaryIO, path: Path) -> zipfile.ZipFile:
    """An archive, whose directory has been read.

    Args:
        path: of the archive, for messages.
    Raises:
        ContentError: its directory is too large. Exception: whatever `zipfile` raises at a damaged one.
    """
    return zipfile.ZipFile(cast(BinaryIO, _Bounded(stream, path)))


def is_npz(file: StableFile) -> bool:
    """Whether a zip archive holds NumPy's arrays, and nothing else."""
    try:
        with open_zip(file.stream(), file.path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def record_start(file: StableFile, record: zipfile.ZipInfo) -> int:
    """Where the bytes of a record begin, by the header before them; they are all there.

    Raises:
        ValueError: they are not where the directory says.
    """
    where, fault = (
        record.header_offset,
        f"the record {record.filename} is not where the archive's directory says, or is cut off",
    )
    if not 0 <= where <= file.size - _LOCAL_HEADER:
        raise ValueError(fault)
    head = file.read_bytes(where, _LOCAL_HEADER)
    start = where + _LOCAL_HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    size = record.file_size if record.compress_type == zipfile.ZIP_STORED else record.compress_size
    if head[:4] != b"PK\x03\x04" or start + size > file.size:
        raise ValueError(fault)
    return start


def check_expanded(path: Path, size: int, expanded: int, what: str, instead: str) -> None:
    """Refuse a compressed file that becomes much larger than data does: a few megabytes could fill the memory.

    Args:
        size: of the file; expanded: what it becomes, in bytes; what: is in it.
        instead: how the same is saved without compression.

    Raises:
        ContentError: it does.
    """
    if expanded > _EXPANDED + _RATIO * size:
        raise ContentError(
            f"{what} needs {expanded} bytes, far more than {human_bytes(size)} of compressed data become",
            where=str(path),
            remedy=f"if it is your own, save it uncompressed: {instead}",
        )


class _Bounded:
    """A stream that is never read in pieces above the limit; members are read in smaller ones."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _DIRECTORY:
            raise ContentError(
                f"the archive's directory has {human_bytes(size)}, and up to {human_bytes(_DIRECTORY)} are read",
                where=str(self._path),
                remedy="save it with fewer records, or as safetensors",
            )
        return self._stream.read(size)
