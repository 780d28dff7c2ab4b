"""Zip archives of others: `zipfile` would read a directory of any size into memory."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import BinaryIO, cast

from rebasin_cli.errors import ContentError, human_bytes

_DIRECTORY = 16 << 20  # bytes of the directory: some 150,000 records


def open_zip(stream: BinaryIO, path: Path) -> zipfile.ZipFile:
    """An archive, whose directory has been read.

    Args:
        path: of the archive, for messages.
    Raises:
        ContentError: its directory is too large. Exception: whatever `zipfile` raises at a damaged one.
    """
    return zipfile.ZipFile(cast(BinaryIO, _Bounded(stream, path)))


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
