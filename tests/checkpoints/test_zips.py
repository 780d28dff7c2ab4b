"""Zip archives whose directory is too large to be read."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.data import load_data

DIRECTORY = 17 << 20


def write(path: Path) -> Path:
    """A beginning, a directory of zeros, and the record at the end that tells its size."""
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, DIRECTORY, 4, 0)
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(4 + DIRECTORY)
        file.write(end)
    return path


@pytest.mark.parametrize("name", ["model.pt", "data.npz"])
def test_a_directory_above_the_limit(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    with pytest.raises(ContentError, match=r"the archive's directory has 17\.8 MB, and up to 16\.8 MB are read"):
        load_data(path) if path.suffix == ".npz" else open_checkpoint(path)
