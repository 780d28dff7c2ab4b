"""Tensors from bytes and back: the torch counterparts of the element types, their bits, and one pass over all of them.

A permutation moves units without looking at values, so every type has to pass through it bit for bit, also
those that torch cannot index, add or even name. Each type therefore has a second reading here: a plain integer
tensor of the same shape (`as_elements`), from which the bytes come back exactly (`as_bytes`).

`scan` takes a checkpoint's sha256 and counts the values that are not finite. Both need every byte, and reading
dominates the cost, so they share the pass. The digest is computed in a second thread while the values are looked at;
at most three blocks are in memory.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import torch

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.header import BITS, TORCH_NAMES, TensorInfo
from rebasin_cli.checkpoints.reader import TensorFile
from rebasin_cli.errors import ContentError

# The torch of the oldest supported version lacks some of the 8-bit types: those names have no entry then.
TORCH_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {name: getattr(torch, attribute) for name, attribute in TORCH_NAMES.items() if hasattr(torch, attribute)}
)
_NAMES: Mapping[torch.dtype, str] = MappingProxyType({dtype: name for name, dtype in TORCH_DTYPES.items()})

_ELEMENTS: Mapping[int, torch.dtype] = MappingProxyType(
    {4: torch.uint8, 6: torch.uint8, 8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}
)

# Sign, exponent and mantissa bits with the exponent's bias (OCP Microscaling Formats v1.0, table 1).
_SMALL_FLOATS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"F4": (2, 1, 1), "F6_E2M3": (2, 3, 1), "F6_E3M2": (3, 2, 3)}
)

_MAPPED = 1 << 20  # bytes from which a buffer gets pages of its own


def torch_dtype(name: str) -> torch.dtype | None:
    """The torch type that stores safetensors' `name` element by element, or None if torch has none."""
    return TORCH_DTYPES.get(name)


def dtype_name(dtype: torch.dtype) -> str | None:
    """The safetensors name of a torch type, or None if the format cannot hold it (complex128, quantised, ...)."""
    return _NAMES.get(dtype)


def as_elements(raw: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    """One integer per element, in the tensor's shape: what a permutation may index whatever the type means.

    Args:
        raw: the bytes, 1-D uint8 of `info.nbytes`.
    Returns:
        uint8, int16, int32 or int64 of `info.shape`, sharing `raw`'s memory where an element is whole bytes;
        elements of 4 and 6 bits are unpacked to uint8, lowest bits first.
    """
    bits = BITS[info.dtype]
    if bits == 4:
        return torch.stack((raw & 0xF, raw >> 4), dim=1).reshape(info.shape)
    if bits == 6:
        words = raw.reshape(-1, 3).to(torch.int32)  # 4 elements in 3 bytes
        word = words[:, 0] | words[:, 1] << 8 | words[:, 2] << 16
        return torch.stack([(word >> 6 * i) & 0x3F for i in range(4)], dim=1).to(torch.uint8).reshape(info.shape)
    return raw.view(_ELEMENTS[bits]).reshape(info.shape)


def as_bytes(elements: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    """The inverse of `as_elements`: 1-D uint8 of `info.nbytes` (shares memory if `elements` is contiguous)."""
    bits = BITS[info.dtype]
    if elements.dtype != _ELEMENTS[bits] or tuple(elements.shape) != info.shape:
        raise ValueError(f"{elements.dtype} {tuple(elements.shape)} are not the elements of {info}")
    flat = elements.reshape(-1)
    if bits == 4:
        pairs = flat.reshape(-1, 2)
        return pairs[:, 0] | pairs[:, 1] << 4
    if bits == 6:
        fours = flat.reshape(-1, 4).to(torch.int32)
        word = fours[:, 0] | fours[:, 1] << 6 | fours[:, 2] << 12 | fours[:, 3] << 18
        return torch.stack([(word >> 8 * i) & 0xFF for i in range(3)], dim=1).to(torch.uint8).reshape(-1)
    return flat.contiguous().view(torch.uint8)


def as_tensor(raw: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    """The values: `raw` (1-D uint8) read as `info` says, in the torch type of the same name.

    A type that torch lacks (F4, F6, and F8_E8M0 before 2.7) is decoded to float32, which holds each of
    its values exactly.
    """
    dtype = TORCH_DTYPES.get(info.dtype)
    if dtype is not None:
        return raw.view(dtype).reshape(info.shape)
    return _values(info.dtype)[as_elements(raw, info).long()]


def tensor_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor in row-major order, 1-D uint8 on the CPU; shares memory where it can."""
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8)


def new_bytes(size: int) -> torch.Tensor:
    """Memory for `size` bytes, 1-D uint8; a large one goes back to the system as soon as it is dropped.

    malloc keeps what was freed below 32 MiB in its heap, in pieces: reading a model of tensors of 20 MiB one by one
    left up to five of them resident.
    """
    if size < _MAPPED:
        return torch.empty(size, dtype=torch.uint8)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)


@cache
def _values(name: str) -> torch.Tensor:
    """What each bit pattern of a small float means, float32 of (2 ** bits,)."""
    if name == "F8_E8M0":  # a power of two; the last pattern is NaN
        return torch.tensor([2.0 ** (code - 127) for code in range(255)] + [math.nan])
    exponent_bits, mantissa_bits, bias = _SMALL_FLOATS[name]
    values = []
    for code in range(1 << BITS[name]):
        fraction = (code & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
        exponent = code >> mantissa_bits & (1 << exponent_bits) - 1
        size = (1 + fraction) * 2.0 ** (exponent - bias) if exponent else fraction * 2.0 ** (1 - bias)
        values.append(-size if code >> exponent_bits + mantissa_bits else size)
    return torch.tensor(values)


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
