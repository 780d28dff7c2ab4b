"""One pass over a checkpoint's bytes: its sha256, and how many values are not finite.

Both need every byte, and reading dominates the cost, so they share the pass. The digest is computed in a second thread
while the values are looked at; at most three blocks are in memory.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.reader import TensorFile
from rebasin_cli.checkpoints.tensors import TORCH_DTYPES, tensor_bytes
from rebasin_cli.errors import ContentError

# Bits that a value which is not finite has all set, and where they are looked for (formats of 8 bits).
_SET_BITS = {"F8_E5M2": 0x7C, "F8_E4M3": 0x7F, "F8_E8M0": 0xFF}
_ONE_NAN = {"F8_E4M3FNUZ": 0x80, "F8_E5M2FNUZ": 0x80}
_HEAD = 1 << 16  # bytes by which tensors are distinguished
_NAMED = 5  # tensors that an error lists


@dataclass(frozen=True, slots=True)
class ScanResult:
    """`sha256` in hexadecimal; `non_finite`: tensor -> how many NaN or infinite elements, only where there are any.

    `heads`: tensor -> a checksum of its first bytes; those of equal tensors are equal.
    """

    sha256: str
    non_finite: Mapping[str, int]
    heads: Mapping[str, int]


def scan(checkpoint: Checkpoint, on_bytes: Callable[[int], None] | None = None) -> ScanResult:
    """Digest a checkpoint and count what is not finite.

    The digest of a single file, also of the only one in a folder, is that of `sha256sum`. That of several shards is
    taken over the lines "name sha256\\n", in the order of the names.

    Args:
        on_bytes: called with the size of each stretch of tensors that is done; they add up to `checkpoint.nbytes`.
    """
    digests: dict[str, str] = {}
    non_finite: Counter[str] = Counter()
    heads: dict[str, int] = {}
    with ThreadPoolExecutor(1) as hasher:
        for name, file in checkpoint.files.items():
            digests[name] = _scan_file(file, non_finite, heads, hasher, on_bytes)
    return ScanResult(combined_sha256(digests), {key: non_finite[key] for key in checkpoint if non_finite[key]}, heads)


def hash_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 in hexadecimal over names, dtypes, shapes and bytes of tensors in memory, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor).numpy().data)
    return digest.hexdigest()


def require_finite(checkpoint: Checkpoint, result: ScanResult) -> None:
    """Refuse NaN and infinite values: their similarity to anything is NaN too.

    Raises:
        ContentError: naming the tensors and counts.
    """
    bad = result.non_finite
    if not bad:
        return
    listed = ", ".join(f"{key} ({count} of {checkpoint.infos[key].numel})" for key, count in list(bad.items())[:_NAMED])
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    tensors = "1 tensor has" if len(bad) == 1 else f"{len(bad)} tensors have"
    raise ContentError(
        f"{tensors} NaN or infinite values: {listed}{more}",
        where=checkpoint.address,
        remedy="use a checkpoint from before the training diverged, or one that is not damaged",
    )


def count_non_finite(raw: torch.Tensor, dtype: str) -> int:
    """How many elements of `raw` (1-D uint8, whole elements of `dtype`) are NaN or infinite."""
    if dtype in _SET_BITS:
        return int(torch.count_nonzero((raw & _SET_BITS[dtype]) == _SET_BITS[dtype]))
    if dtype in _ONE_NAN:
        return int(torch.count_nonzero(raw == _ONE_NAN[dtype]))
    if dtype == "C64":
        parts = raw.view(torch.float32)
        return 0 if bool(parts.sum().isfinite()) else int((~parts.isfinite()).reshape(-1, 2).any(dim=1).sum())
    if dtype not in ("F64", "F32", "F16", "BF16"):
        return 0  # integers; and the types under a byte have neither NaN nor infinity
    values = raw.view(TORCH_DTYPES[dtype])
    # A sum passes on what is not finite, in a single pass over memory; it may also overflow, so it is no proof.
    total = values.sum(dtype=torch.float64 if dtype == "F64" else torch.float32)
    return 0 if bool(total.isfinite()) else int((~values.isfinite()).sum())


def _scan_file(
    file: TensorFile,
    non_finite: Counter[str],
    heads: dict[str, int],
    hasher: ThreadPoolExecutor,
    on_bytes: Callable[[int], None] | None,
) -> str:
    digest = hashlib.sha256()
    pending: Future[None] | None = None
    for block in file.blocks():
        if pending is not None:
            pending.result()
            pending = None
        if block.of_file:
            pending = hasher.submit(digest.update, block.data.numpy().data)
        if block.key is not None:
            heads.setdefault(block.key, zlib.crc32(block.data[:_HEAD].numpy().data))
            non_finite[block.key] += count_non_finite(block.data, file.infos[block.key].dtype)
            if on_bytes is not None:
                on_bytes(block.data.numel())
    if pending is not None:
        pending.result()
    return digest.hexdigest()


def combined_sha256(digests: Mapping[str, str]) -> str:
    """The sha256 of a checkpoint from those of its files by name, as `scan` says."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()
