"""The bytes of tensors in torch's files, packed: what a view of a storage shows, in row-major order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch

from rebasin_cli.checkpoints.reader import CHUNK
from rebasin_cli.checkpoints.stored import StoredTensor, span_of
from rebasin_cli.checkpoints.tensors import TORCH_DTYPES

Read = Callable[[int, int], torch.Tensor]  # position and count of bytes -> 1-D uint8

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def read_stored(tensor: StoredTensor, read: Read) -> torch.Tensor:
    """The bytes of a tensor in row-major order, 1-D uint8, in memory that the caller owns; `read` is its storage's."""
    if not tensor.info.numel:
        return torch.empty(0, dtype=torch.uint8)
    item = tensor.itemsize
    raw = _read_view(read, tensor.offset, tensor.info.shape, tensor.stride, item)
    if tensor.swapped:
        word = item // 2 if tensor.info.dtype == "C64" else item
        raw = raw.view(-1, word).flip(1).reshape(-1)
    if tensor.flips:
        values = raw.view(TORCH_DTYPES[tensor.info.dtype])
        values = values.conj_physical() if "conj" in tensor.flips else values
        raw = (values.neg() if "neg" in tensor.flips else values).view(torch.uint8)
    return raw


def is_contiguous(tensor: StoredTensor) -> bool:
    """Whether its bytes lie in the file as they are read."""
    return _packed(tensor.info.shape, tensor.stride) and not tensor.swapped and not tensor.flips


def _read_view(read: Read, offset: int, shape: Sequence[int], stride: Sequence[int], item: int) -> torch.Tensor:
    """A view of a storage, packed; where it is much wider than it is full, in pieces along its widest axis.

    Memory is that of the tensor and a chunk, whatever the strides.
    """
    span = span_of(shape, stride)
    numel = prod(shape)
    axis = max((a for a, size in enumerate(shape) if size > 1), key=lambda a: stride[a], default=0)
    step = max(1, CHUNK // (max(1, stride[axis]) * item)) if shape else 1
    if span <= max(2 * numel, CHUNK // item) or step >= shape[axis]:
        data = read(offset * item, span * item)
        if span == numel and _packed(shape, stride):
            return data
        words = data.view(_WORDS[item]).as_strided(tuple(shape), tuple(stride))
        return words.contiguous().reshape(-1).view(torch.uint8).clone()
    out = torch.empty((*shape, item), dtype=torch.uint8)
    for start in range(0, shape[axis], step):
        count = min(step, shape[axis] - start)
        part = (*shape[:axis], count, *shape[axis + 1 :])
        piece = _read_view(read, offset + start * stride[axis], part, stride, item)
        out.narrow(axis, start, count).copy_(piece.view(*part, item))
    return out.reshape(-1)


def _packed(shape: Sequence[int], stride: Sequence[int]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True
