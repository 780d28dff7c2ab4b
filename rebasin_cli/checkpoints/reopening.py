"""A checkpoint in another process: opened by its path, and seen to be the same file."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.errors import SystemFailure
from rebasin_cli.files import sha256_of


def sha256_of_checkpoint(path: Path) -> str:
    """As a scan gives it, without looking at what the tensors hold.

    Raises:
        RebasinError: it cannot be opened or read.
    """
    with open_checkpoint(path) as checkpoint:
        return _sha256(checkpoint)


def reopened(path: str, key: str | None, sha256: str | None) -> Checkpoint:
    """Open a checkpoint that another process has read.

    Args:
        sha256: of what that process read.

    Raises:
        SystemFailure: it is another file here, or cannot be read.
    """
    checkpoint = open_checkpoint(Path(path if key is None else f"{path}:{key}"))
    state = tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in _stats(checkpoint))
    found = _sha256_once(path, key, state)
    if found != sha256:
        raise SystemFailure(
            f"{path} is another file on a worker: its sha256 is {found[:12]}…, and was {str(sha256)[:12]}…",
            where=platform.node(),
            remedy="put the files where all machines have them under one path, and leave them as they are",
        )
    checkpoint.sha256 = sha256
    return checkpoint


def _stats(checkpoint: Checkpoint) -> list[os.stat_result]:
    return [os.stat(file.path) for file in checkpoint.files.values()]


@lru_cache(maxsize=64)
def _sha256_once(path: str, key: str | None, state: object) -> str:
    """The hash, read again only where the `state` of its files is another one."""
    return sha256_of_checkpoint(Path(path if key is None else f"{path}:{key}"))


def _sha256(checkpoint: Checkpoint) -> str:
    from rebasin_cli.checkpoints.tensors import combined_sha256

    return combined_sha256({name: sha256_of(file.path) for name, file in checkpoint.files.items()})
