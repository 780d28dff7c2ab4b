from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.checkpoints.header import BITS, TensorInfo
from rebasin_cli.checkpoints.tensors import (
    TORCH_DTYPES,
    as_bytes,
    as_elements,
    as_tensor,
    dtype_name,
    tensor_bytes,
    torch_dtype,
)


@st.composite
def raw_tensors(draw: st.DrawFn) -> tuple[torch.Tensor, TensorInfo]:
    dtype = draw(st.sampled_from(sorted(BITS)))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    if math.prod(shape) * BITS[dtype] % 8:
        shape = (*shape, 4)
    info = TensorInfo(dtype, shape)
    return torch.tensor(list(draw(st.binary(min_size=info.nbytes, max_size=info.nbytes))), dtype=torch.uint8), info


@given(raw_tensors())
def test_elements_give_the_bytes_back(pair: tuple[torch.Tensor, TensorInfo]) -> None:
    raw, info = pair
    elements = as_elements(raw, info)
    assert tuple(elements.shape) == info.shape
    assert not elements.dtype.is_floating_point
    assert torch.equal(as_bytes(elements, info), raw)


@given(raw_tensors())
def test_values_of_whole_bytes_give_the_bytes_back(pair: tuple[torch.Tensor, TensorInfo]) -> None:
    raw, info = pair
    values = as_tensor(raw, info)
    assert tuple(values.shape) == info.shape
    if torch_dtype(info.dtype) is not None:
        assert torch.equal(tensor_bytes(values), raw)


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_permuting_elements_permutes_the_values(dtype: str) -> None:
    info = TensorInfo(dtype, (6, 4))
    raw = torch.randint(0, 256, (info.nbytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    rows, columns = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([2, 0, 3, 1])
    moved = as_bytes(as_elements(raw, info)[rows][:, columns], info)
    expected = [as_tensor(raw, info)[i, j] for i in rows for j in columns]
    found = as_tensor(moved, info).reshape(-1)
    assert all(torch.equal(tensor_bytes(a), tensor_bytes(b)) for a, b in zip(expected, found, strict=True))
    assert not torch.equal(moved, raw)


@pytest.mark.parametrize("pattern", [False, True])
def test_elements_of_another_shape_are_not_taken(pattern: bool) -> None:
    info = TensorInfo("F32", (2, 2))
    wrong = torch.zeros(4, dtype=torch.int32) if pattern else torch.zeros(2, 2)
    with pytest.raises(ValueError, match="are not the elements of"):
        as_bytes(wrong, info)


def test_small_floats_have_the_values_of_their_standard() -> None:
    # OCP Microscaling Formats v1.0, table 1 (largest values) and the whole of E2M1.
    four = as_tensor(torch.tensor([0x10, 0x32, 0x54, 0x76, 0xF8], dtype=torch.uint8), TensorInfo("F4", (10,)))
    assert four.tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -6]
    for dtype, largest in (("F6_E2M3", 7.5), ("F6_E3M2", 28.0)):
        ones = as_tensor(torch.full((3,), 0xFF, dtype=torch.uint8), TensorInfo(dtype, (4,)))
        assert ones.tolist() == [-largest] * 4


def test_a_scale_type_that_torch_may_lack_is_decoded_the_same() -> None:
    from rebasin_cli.checkpoints.tensors import _values

    codes = torch.arange(256, dtype=torch.uint8)
    torch.testing.assert_close(
        _values("F8_E8M0"), codes.view(TORCH_DTYPES["F8_E8M0"]).float(), rtol=0, atol=0, equal_nan=True
    )


def test_names_and_torch_types_agree_with_the_library() -> None:
    from safetensors.torch import _TYPES

    ours = {name: torch_dtype(name) for name in _TYPES}
    assert ours == _TYPES
    assert all(dtype_name(dtype) == name for name, dtype in _TYPES.items())
    assert dtype_name(torch.complex128) is None
    assert torch_dtype("F4") is None


def test_bytes_of_a_view_are_in_row_major_order() -> None:
    tensor = torch.arange(6, dtype=torch.int32).reshape(2, 3).T
    assert tensor_bytes(tensor).view(torch.int32).tolist() == [0, 3, 1, 4, 2, 5]
    assert tensor_bytes(torch.ones(2, dtype=torch.complex64).mul(1j).conj()).view(torch.float32).tolist() == [0, -1] * 2
