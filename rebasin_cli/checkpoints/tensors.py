"""Tensors from bytes and back: the torch counterparts of the element types, and their bits.

A permutation moves units without looking at values, so every type has to pass through it bit for bit, also
those that torch cannot index, add or even name. Each type therefore has a second reading here: a plain integer
tensor of the same shape (`as_elements`), from which the bytes come back exactly (`as_bytes`).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import torch

from rebasin_cli.checkpoints.dtypes import BITS, TORCH_NAMES, TensorInfo

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
