from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.reader import CHUNK
from rebasin_cli.checkpoints.tensors import TORCH_DTYPES, count_non_finite, require_finite, scan
from rebasin_cli.errors import ContentError
from tests.checkpoints.building import every_dtype_file, two_shards, write_sharded

FLOATS = sorted(name for name, dtype in TORCH_DTYPES.items() if dtype.is_floating_point)


@pytest.mark.parametrize("name", FLOATS)
@given(data=st.data())
def test_counts_agree_with_torch(name: str, data: st.DataObject) -> None:
    size = TORCH_DTYPES[name].itemsize * data.draw(st.integers(0, 64))
    # Bytes of all ones are frequent here, so that NaN and infinity are.
    byte = st.sampled_from([0x00, 0x7C, 0x7F, 0x80, 0xF0, 0xF8, 0xFC, 0xFF]) | st.integers(0, 255)
    raw = torch.tensor(data.draw(st.lists(byte, min_size=size, max_size=size)), dtype=torch.uint8)
    expected = int((~raw.view(TORCH_DTYPES[name]).double().isfinite()).sum())
    assert count_non_finite(raw, name) == expected


@pytest.mark.parametrize("name", ["F64", "F32", "F16", "BF16"])
def test_a_sum_that_overflows_is_no_fault(name: str) -> None:
    dtype = TORCH_DTYPES[name]
    assert count_non_finite(torch.full((99,), torch.finfo(dtype).max, dtype=dtype).view(torch.uint8), name) == 0


def test_complex_numbers_count_once() -> None:
    nan = float("nan")
    values = torch.tensor([complex(1, nan), complex(nan, nan), complex(float("inf"), 0), complex(1, 2)])
    assert count_non_finite(values.to(torch.complex64).view(torch.float32).view(torch.uint8), "C64") == 3


def test_integers_are_always_finite() -> None:
    for name in ("I64", "U8", "BOOL", "F4", "F6_E3M2"):
        assert count_non_finite(torch.full((24,), 0xFF, dtype=torch.uint8), name) == 0


def test_the_digest_of_a_file_is_that_of_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(every_dtype_file()[0])
    checkpoint = open_checkpoint(path)
    seen: list[int] = []
    assert scan(checkpoint, seen.append).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sum(seen) == checkpoint.nbytes


def test_a_tensor_of_several_blocks(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    big = torch.zeros(CHUNK // 2 + 3)  # two blocks and a little more
    big[[5, CHUNK // 4 - 1, CHUNK // 4, -1]] = float("nan")
    save_file({"w": big, "v": torch.tensor([float("inf"), 1.0])}, path)
    seen: list[int] = []
    result = scan(open_checkpoint(path), seen.append)
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert result.non_finite == {"w": 4, "v": 1}
    assert sorted(seen) == [8, 12, CHUNK, CHUNK]


def test_the_digest_of_a_folder(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m", two_shards())
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    lines = "".join(f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n" for name in names)
    assert scan(open_checkpoint(folder)).sha256 == hashlib.sha256(lines.encode()).hexdigest()
    (folder / "config.json").write_text('{"other": 1}')
    assert scan(open_checkpoint(folder)).sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_the_only_file_of_a_folder_has_its_own_digest(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "model.safetensors")
    assert scan(open_checkpoint(tmp_path)) == scan(open_checkpoint(tmp_path / "model.safetensors"))


def test_values_that_are_not_finite_are_named_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {f"w{i}": torch.tensor([1.0, float("nan"), float("inf")]) for i in range(7)}
    save_file(tensors | {"fine": torch.ones(2)}, path)
    checkpoint = open_checkpoint(path)
    with pytest.raises(ContentError) as caught:
        require_finite(checkpoint, scan(checkpoint))
    assert caught.value.what.startswith("7 tensors have NaN or infinite values: w0 (2 of 3), w1 (2 of 3)")
    assert caught.value.what.endswith("w4 (2 of 3) and 2 more")
    assert caught.value.where == str(path)
    save_file({"fine": torch.ones(2)}, path)
    fine = open_checkpoint(path)
    require_finite(fine, scan(fine))
