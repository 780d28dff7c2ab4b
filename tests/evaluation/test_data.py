"""Reading examples: every format, and a refusal for every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rebasin_cli.errors import ContentError, RebasinError, SystemFailure, UsageError
from rebasin_cli.evaluation.data import load_data
from rebasin_cli.evaluation.inputs import leaves

PIXELS = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3) * 10
LABELS = np.array([3, 0, 2, 1], dtype=np.uint8)


def idx_bytes(array: np.ndarray[Any, Any], code: int) -> bytes:
    header = struct.pack(">BBBB", 0, 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def idx_folder(
    folder: Path,
    images: bytes | None = None,
    labels: bytes | None = None,
    *,
    start: str = "t10k",
    suffix: str = "",
) -> Path:
    folder.mkdir(exist_ok=True)
    pack: Callable[[bytes], bytes] = gzip.compress if suffix == ".gz" else bytes
    images = idx_bytes(PIXELS, 8) if images is None else images
    labels = idx_bytes(LABELS, 8) if labels is None else labels
    (folder / f"{start}-images-idx3-ubyte{suffix}").write_bytes(pack(images))
    (folder / f"{start}-labels-idx1-ubyte{suffix}").write_bytes(pack(labels))
    return folder


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def good() -> dict[str, np.ndarray[Any, Any]]:
    return {"inputs": np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3), "targets": LABELS.astype(np.int64)}


def test_npz(tmp_path: Path) -> None:
    data = load_data(npz(tmp_path / "d.npz", **good()))
    torch.testing.assert_close(data.inputs, torch.from_numpy(good()["inputs"]), rtol=0, atol=0)
    torch.testing.assert_close(data.targets, torch.tensor([3, 0, 2, 1]))
    assert (data.split, data.source, len(data)) == (None, str(tmp_path / "d.npz"), 4)


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    tensors = {"inputs": torch.rand(4, 3).to(torch.bfloat16), "targets": torch.tensor([1, 2, 3, 0], dtype=torch.int32)}
    save_file(tensors, path)
    data = load_data(path, "train")
    torch.testing.assert_close(data.inputs, tensors["inputs"], rtol=0, atol=0)
    assert data.targets.dtype == torch.int64
    assert data.targets.tolist() == [1, 2, 3, 0]
    assert data.split is None


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("split", "start"), [("test", "t10k"), ("train", "train")])
def test_idx(tmp_path: Path, split: Any, start: str, suffix: str) -> None:
    data = load_data(idx_folder(tmp_path / "mnist", start=start, suffix=suffix), split)
    torch.testing.assert_close(data.inputs, torch.from_numpy(PIXELS).float() / 255, rtol=0, atol=0)
    assert data.targets.tolist() == LABELS.tolist()
    assert data.split == split


def test_idx_of_big_endian_floats(tmp_path: Path) -> None:
    images = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 2, 3)
    data = load_data(idx_folder(tmp_path / "floats", idx_bytes(images, 0x0D)))
    torch.testing.assert_close(data.inputs, torch.from_numpy(images), rtol=0, atol=0)


def test_uint8_is_divided_by_255_and_floats_are_not(tmp_path: Path) -> None:
    pixels = np.array([[0, 51], [102, 255]], dtype=np.uint8)
    labels = np.array([0, 1])
    scaled = load_data(npz(tmp_path / "a.npz", inputs=pixels, targets=labels))
    torch.testing.assert_close(scaled.inputs, torch.tensor([[0.0, 0.2], [0.4, 1.0]]))
    plain = load_data(npz(tmp_path / "b.npz", inputs=pixels.astype(np.float64), targets=labels))
    torch.testing.assert_close(plain.inputs, torch.tensor([[0.0, 51.0], [102.0, 255.0]], dtype=torch.float64))


def test_byte_order_and_memory_order_do_not_matter(tmp_path: Path) -> None:
    inputs = np.asfortranarray(good()["inputs"]).astype(">f4")
    data = load_data(npz(tmp_path / "d.npz", inputs=inputs, targets=LABELS.astype(">i4")))
    torch.testing.assert_close(data.inputs, torch.from_numpy(good()["inputs"]))
    assert data.targets.tolist() == LABELS.tolist()


def test_limit(tmp_path: Path) -> None:
    path = npz(tmp_path / "d.npz", **good())
    assert load_data(path, limit=2).targets.tolist() == [3, 0]
    assert len(load_data(path, limit=2).inputs) == 2
    assert len(load_data(path, limit=99)) == 4
    with pytest.raises(UsageError, match="leaves none"):
        load_data(path, limit=0)


def changed(**arrays: Any) -> dict[str, Any]:
    return good() | arrays


def without(name: str) -> dict[str, Any]:
    return {key: array for key, array in good().items() if key != name}


def several(**inputs: Any) -> dict[str, Any]:
    return {f"inputs.{key}": array for key, array in {"x": PIXELS, **inputs}.items()} | {"targets": LABELS}


def test_several_inputs_are_read_by_name_or_place(tmp_path: Path) -> None:
    mask = np.array([True, False, True, True])
    named = load_data(npz(tmp_path / "d.npz", **several(mask=mask)), limit=3)
    assert isinstance(named.inputs, dict)
    assert named.inputs["mask"].tolist() == [True, False, True]
    torch.testing.assert_close(named.inputs["x"], torch.from_numpy(PIXELS[:3]).float() / 255)
    tensors = {f"inputs.{i}": torch.full((2, 1), float(i)) for i in range(3)}
    save_file({**tensors, "targets": torch.ones(2)}, tmp_path / "d.safetensors")
    placed = load_data(tmp_path / "d.safetensors")
    assert isinstance(placed.inputs, tuple)
    assert [float(tensor[0, 0]) for tensor in placed.inputs] == [0.0, 1.0, 2.0]
    deep = load_data(npz(tmp_path / "n.npz", **{"inputs.0": PIXELS, "inputs.1.a": PIXELS, "targets": LABELS}))
    assert list(leaves(deep.inputs)) == ["inputs.0", "inputs.1.a"]
    assert len({data.sha256() for data in (named, placed, deep)}) == 3


@pytest.mark.parametrize(("dtype", "kept"), [("f2", "float32"), ("f4", "float32"), ("f8", "float64"), ("u1", "int64")])
def test_targets_are_floats_or_int64(tmp_path: Path, dtype: str, kept: str) -> None:
    data = load_data(npz(tmp_path / "d.npz", **changed(targets=np.arange(12).reshape(4, 3).astype(dtype))))
    assert str(data.targets.dtype) == f"torch.{kept}"
    assert data.targets.tolist() == np.arange(12).reshape(4, 3).tolist()


BAD_ARRAYS = {
    "no inputs": (without("inputs"), "no array `inputs`.*holds `targets`"),
    "no targets": (without("targets"), "no array `targets`.*holds `inputs`"),
    "nothing": ({}, "no array `inputs`.*holds nothing"),
    "lengths": (changed(targets=LABELS[:3]), "4 inputs and 3 targets"),
    "complex targets": (changed(targets=LABELS.astype(np.complex64)), "`targets` are complex64"),
    "targets that are not finite": (changed(targets=np.array([1.0, np.nan, 2, 3])), "`targets` hold 1 values"),
    "a target for all": (changed(targets=np.array(3)), r"`targets` have shape \(\)"),
    "inputs twice": (good() | {"inputs.a": PIXELS}, "both `inputs` and `inputs.a`"),
    "lengths of several": (several(mask=PIXELS[:3]), "3 `inputs.mask` and 4 targets"),
    "one of several for all": (several(mask=np.array(1.0)), r"`inputs.mask` have shape \(\)"),
    "nan among several": (several(mask=np.full(4, np.nan)), "`inputs.mask` hold 4 values"),
    "no axis of examples": (changed(inputs=np.zeros(4)), r"shape \(4,\)"),
    "empty": (changed(inputs=np.zeros((0, 3)), targets=LABELS[:0]), r"empty: .* \(0, 3\)"),
    "empty examples": (changed(inputs=np.zeros((4, 0))), r"empty: .* \(4, 0\)"),
    "nan": (changed(inputs=np.array([[1.0], [np.nan], [np.inf], [0.0]])), "2 values .* 2 examples, .* number 1"),
    "half nan": (changed(inputs=np.full((4, 1), np.inf, dtype=np.float16)), "4 values that are NaN or infinite"),
    "bool": (changed(inputs=np.ones((4, 2), dtype=bool)), "`inputs` are bool"),
    "complex": (changed(inputs=np.ones((4, 2), dtype=np.complex64)), "`inputs` are complex64"),
    "text": (changed(inputs=np.array([["a"]] * 4)), "no kind of number"),
    "pickled": (changed(inputs=np.array([{}] * 4, dtype=object)), "pickled objects"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays(tmp_path: Path, case: str) -> None:
    arrays, message = BAD_ARRAYS[case]
    assert_refused(npz(tmp_path / "d.npz", **arrays), message)


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "run"
    path = npz(tmp_path / "d.npz", **changed(inputs=np.array([Malicious(mark)] * 4, dtype=object)))
    assert_refused(path, "can run code")
    assert not mark.exists()


def test_float8_inputs_are_checked_too(tmp_path: Path) -> None:
    inputs = torch.tensor([[1.0], [math.nan]]).to(torch.float8_e4m3fn)
    save_file({"inputs": inputs, "targets": torch.tensor([0, 1])}, tmp_path / "d.safetensors")
    assert_refused(tmp_path / "d.safetensors", "1 values that are NaN")


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
@pytest.mark.parametrize("keep", [0, 20, -30])
def test_files_cut_short(tmp_path: Path, kind: str, keep: int) -> None:
    path = tmp_path / f"d.{kind}"
    if kind == "npz":
        npz(path, **good())
    else:
        save_file({name: torch.from_numpy(array) for name, array in good().items()}, path)
    path.write_bytes(path.read_bytes()[:keep])
    assert_refused(path, f"cannot be read as .*{kind}")


def test_a_damaged_member_of_an_archive(tmp_path: Path) -> None:
    path = npz(tmp_path / "d.npz", **good())
    raw = bytearray(path.read_bytes())
    raw[160] ^= 0xFF  # inside the first array's numbers
    path.write_bytes(raw)
    assert_refused(path, "cannot be read as an .npz archive")


@pytest.mark.parametrize(
    "member",
    [b"no array", b"", b"\x93NUMPY\x01\x00\x04\x00(((\n", b"\x93NUMPY\x02\x00\x00\x20\x00\x00" + b"-" * 8191 + b"\n"],
    ids=["no array", "empty", "open brackets", "deep"],
)
def test_a_member_that_is_no_array(tmp_path: Path, member: bytes) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", member)
        archive.writestr("targets.npy", member)
    assert_refused(path, "cannot be read as an .npz archive")


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_inputs_that_nest_too_deep(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.{suffix}"
    arrays = {"inputs" + ".a" * 5000: np.zeros((2, 3), np.float32), "targets": np.zeros(2, np.int64)}
    np.savez(path, **arrays) if suffix == "npz" else save_file({k: torch.tensor(v) for k, v in arrays.items()}, path)
    assert_refused(path, "nests inputs 5000 deep, and 16 are read")


def test_a_member_whose_bz2_data_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("inputs.npy", bytes(99))
        archive.writestr("targets.npy", bytes(99))
    path.write_bytes(path.read_bytes().replace(b"BZh9", b"BZh0"))
    assert_refused(path, "cannot be read as an .npz archive")


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    with (tmp_path / "d.npz").open("wb") as file:
        np.save(file, good()["inputs"])
    assert_refused(tmp_path / "d.npz", "not a zip file")


def test_safetensors_without_targets(tmp_path: Path) -> None:
    save_file({"inputs": torch.zeros(2, 2)}, tmp_path / "d.safetensors")
    assert_refused(tmp_path / "d.safetensors", "no array `targets`")


def test_an_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("1,2,3\n")
    assert_refused(tmp_path / "d.csv", "not in a format")


@pytest.mark.parametrize("name", ["absent.npz", "absent.safetensors", "absent.csv", "absent"])
def test_an_absent_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(SystemFailure, match="no such file"):
        load_data(tmp_path / name)


WHOLE = idx_bytes(PIXELS, 8)
BAD_IDX = {
    "empty": (b"", r"\(none\)"),
    "magic": (b"\x89PNG" + WHOLE, "89 50 4e 47"),
    "type": (WHOLE[:2] + b"\x07" + WHOLE[3:], "00 00 07 03"),
    "header": (WHOLE[:9], "needs 16 bytes and the file has 9"),
    "short": (WHOLE[:-5], rf"shape \(4, 2, 3\) needs {len(WHOLE)} bytes and there are {len(WHOLE) - 5}"),
    "long": (WHOLE + b"x", f"there are {len(WHOLE) + 1}"),
    "huge": (WHOLE[:4] + struct.pack(">3I", *[2**32 - 1] * 3), f"needs {16 + (2**32 - 1) ** 3} bytes"),
}


@pytest.mark.parametrize("case", BAD_IDX)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bad_idx_files(tmp_path: Path, case: str, suffix: str) -> None:
    raw, message = BAD_IDX[case]
    assert_refused(idx_folder(tmp_path / "mnist", raw, suffix=suffix), message)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-9], lambda raw: b"no gzip at all", lambda raw: raw[:15] + b"??" + raw[17:]]
)
def test_damaged_compression(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = idx_folder(tmp_path / "mnist", suffix=".gz")
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    assert_refused(folder, "compressed data is damaged or cut short")


def test_a_folder_without_the_split(tmp_path: Path) -> None:
    folder = idx_folder(tmp_path / "mnist", start="train")
    error = assert_refused(folder, "no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz")
    assert "test split" in error.where
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(ContentError, match="no train-labels-idx1-ubyte"):
        load_data(folder, "train")


def test_idx_lengths_must_agree(tmp_path: Path) -> None:
    assert_refused(idx_folder(tmp_path / "mnist", labels=idx_bytes(LABELS[:3], 8)), "4 inputs and 3 targets")


def test_the_pair_that_ships_can_be_read() -> None:
    data = load_data(Path(__file__).parents[1] / "data" / "digits.npz")
    assert data.inputs.shape == (500, 64)
    assert math.isclose(data.inputs.max().item(), 1.0)
    assert sorted(set(data.targets.tolist())) == list(range(10))


def assert_refused(path: Path, message: str) -> RebasinError:
    """A ContentError with all three parts: what, where (or in what), remedy."""
    with pytest.raises(ContentError, match=message) as caught:
        load_data(path)
    assert path.name in f"{caught.value.what} {caught.value.where}"
    assert caught.value.remedy
    return caught.value
