"""The element types of the safetensors format: their names and sizes, and what a header says of one tensor.

Headers are read and judged with these alone. What makes tensors of bytes is in `tensors`, which imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

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
