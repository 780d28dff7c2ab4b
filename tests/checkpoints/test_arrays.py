"""Arrays by name as other worlds write them: read bit for bit, under their names, with nothing transposed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.tensors import scan
from rebasin_cli.errors import ContentError, UsageError
from tests.small import DATA

h5py = pytest.importorskip("h5py")

FOREIGN = DATA / "foreign"
EXPECTED = dict(np.load(FOREIGN / "expected.npz"))
_KERAS = {"kernel": "0", "bias": "1"}


def in_flax(name: str) -> str:
    return f"params.{name}"


def in_keras(name: str) -> str:
    layer, part = name.split(".")
    return f"layers/{layer.lower().removesuffix('_0')}/vars/{_KERAS[part]}"


def in_old_keras(name: str) -> str:
    layer, part = name.split(".")
    called = layer.lower().removesuffix("_0")
    return f"model_weights/{called}/sequential/{called}/{part}"


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("expected.npz", str),
        ("flax.msgpack", in_flax),
        ("flax_chunked.msgpack", in_flax),
        ("flax_state.msgpack", in_flax),
        ("keras.weights.h5", in_keras),
        ("keras_whole.h5", in_old_keras),
    ],
)
def test_each_array_is_there_bit_for_bit(file: str, named: Callable[[str], str]) -> None:
    with open_checkpoint(FOREIGN / file) as checkpoint:
        for name, array in EXPECTED.items():
            found = checkpoint[named(name)]
            assert found.dtype == torch.float32
            assert found.numpy().tobytes() == array.tobytes(), name
            assert tuple(found.shape) == array.shape
        scan(checkpoint)


def test_a_part_of_a_file_has_names_of_its_own() -> None:
    with open_checkpoint(Path(f"{FOREIGN / 'flax_state.msgpack'}:params")) as part:
        assert set(part) == set(EXPECTED)
    with open_checkpoint(Path(f"{FOREIGN / 'keras.weights.h5'}:layers")) as part:
        assert set(part) == {in_keras(name).removeprefix("layers/") for name in EXPECTED}
    with open_checkpoint(FOREIGN / "flax_state.msgpack") as whole:
        assert whole["half.kernel"].dtype == torch.bfloat16
        assert torch.equal(whole["half.kernel"].float(), torch.tensor(EXPECTED["Dense_0.kernel"]).bfloat16().float())
        assert whole["count"].shape == ()
        assert whole["lr"] == 0.5
        said = " ".join(whole.notes)
    assert "left out: step" in said
    assert "flax_state.msgpack:params names it alone" in said
    with pytest.raises(ContentError, match="no part 'absent'; it has params, half, opt_state") as caught:
        open_checkpoint(Path(f"{FOREIGN / 'flax_state.msgpack'}:absent"))
    assert "flax_state.msgpack:params" in caught.value.remedy


ORDERS = {
    "plain": np.arange(24, dtype="<f4").reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(24, dtype="<f8").reshape(2, 3, 4)),
    "big": np.arange(6, dtype=">i4").reshape(3, 2),
    "both": np.asfortranarray(np.arange(6, dtype=">c8").reshape(3, 2)),
    "half": np.arange(3, dtype="f2"),
    "truth": np.array([True, False]),
    "none": np.zeros((0, 4), "u1"),
    "one": np.array(3, "u8"),
}


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_every_order_of_bytes_and_axes(write: Callable[..., None], tmp_path: Path) -> None:
    write(tmp_path / "a.npz", **ORDERS, note=np.array("a text"))
    with open_checkpoint(tmp_path / "a.npz") as checkpoint:
        assert set(checkpoint) == set(ORDERS)
        for name, array in ORDERS.items():
            assert checkpoint[name].numpy().tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes(), name
        assert "left out: note" in checkpoint.notes[0]
        assert (
            sum(block.data.numel() for block in checkpoint.files["a.safetensors"].blocks() if block.of_file)
            == (tmp_path / "a.npz").stat().st_size
        )


def test_hdf5_in_every_storage(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["big"] = ORDERS["big"]
        file.create_dataset("packed", data=ORDERS["plain"], compression="gzip", chunks=(1, 3, 2))
        file["text"] = "words"
        for i in range(11):
            file[f"vars/{i}"] = np.float32(i)
    with open_checkpoint(tmp_path / "a.h5") as checkpoint:
        assert list(checkpoint) == ["big", "packed", *(f"vars/{i}" for i in range(11))]
        assert checkpoint["big"].tolist() == ORDERS["big"].tolist()
        assert checkpoint["packed"].numpy().tobytes() == ORDERS["plain"].tobytes()


def _npy(array: np.ndarray[Any, Any], shape: tuple[int, ...] | None = None) -> bytes:
    out = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(out, {**header, "shape": shape or array.shape})
    return out.getvalue() + array.tobytes()


def _zip(path: Path, records: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


def _ext(parts: object, kind: int = 1) -> msgpack.ExtType:
    return msgpack.ExtType(kind, msgpack.packb(parts))


ONES = np.ones(3, "f4")
HOSTILE_MSGPACK: dict[str, bytes] = {
    "cut off": msgpack.packb({"params": _ext(((3,), "float32", ONES.tobytes()))})[:-1],
    "goes on after its end": msgpack.packb({"a": 1}) + b"\0",
    "has 12 bytes": msgpack.packb({"a": _ext(((4,), "float32", ONES.tobytes()))}),
    "of type object, which is not read": msgpack.packb({"a": _ext(((3,), "object", ONES.tobytes()))}),
    "nests too deeply": b"\x81\xa1a" * 5000,
    "too many values": b"\x81\xa1a\xdd\x00\x20\x00\x00" + bytes(0x200000),
    "is cut off": b"\x81\xa1a\xdd\xff\xff\xff\xff\x00",
    "not shape, type and bytes": msgpack.packb({"a": _ext([1, 2])}),
    "has -4 bytes|not shape, type and bytes": msgpack.packb({"a": _ext(((-1,), "float32", b""))}),
    "one twice": b"\x82\xa1a\x01\xa1a\x01",
    "is no map": b"\x05",
    "no pieces": msgpack.packb({"a": {"__msgpack_chunked_array__": True, "shape": {}, "chunks": {}}}),
    "begins nothing": b"\x81\xa1a\xc1",
    "a text has": b"\x81\xdb\x00\x10\x00\x00" + bytes(1 << 20),
}


@pytest.mark.parametrize("what", HOSTILE_MSGPACK)
def test_a_hostile_msgpack_is_refused(what: str, tmp_path: Path) -> None:
    (tmp_path / "a.msgpack").write_bytes(HOSTILE_MSGPACK[what])
    with pytest.raises(ContentError, match=what):
        open_checkpoint(tmp_path / "a.msgpack")


def _objects(path: Path) -> None:
    np.savez(path, a=np.array([object()], dtype=object))


def _bomb(path: Path) -> None:
    _zip(path, {"a.npy": _npy(np.zeros(80 << 20, "f4"))})


HOSTILE_NPZ: dict[str, Callable[[Path], None]] = {
    "pickled objects": _objects,
    "far more than": _bomb,
    "claims 400 bytes": lambda path: _zip(path, {"a.npy": _npy(ONES, (100,))}),
    "there is none|is damaged": lambda path: _zip(path, {"a.npy": b"\x93NUMPY\x01\x00\xff\xff"}),
    "type void16, which is not read": lambda path: np.savez(path, a=np.zeros(3, "V2")),
    "compressed in a way that NumPy": lambda path: _zip(path, {"a.npy": _npy(ONES)}, zipfile.ZIP_LZMA),
    "safetensors cannot hold": lambda path: np.savez(path, __metadata__=ONES),
}


@pytest.mark.parametrize("what", HOSTILE_NPZ)
def test_a_hostile_npz_is_refused(what: str, tmp_path: Path) -> None:
    HOSTILE_NPZ[what](tmp_path / "a.npz")
    with pytest.raises(ContentError, match=what):
        open_checkpoint(tmp_path / "a.npz")


def test_a_record_that_is_damaged_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(100_000))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[200:300] = b"\xff" * 100
    (tmp_path / "a.npz").write_bytes(data)
    checkpoint = open_checkpoint(tmp_path / "a.npz")
    with pytest.raises(ContentError, match="damaged"):
        checkpoint.read_raw("a")


def _linked(path: Path, kind: str) -> None:
    with h5py.File(path, "w") as file:
        if kind == "soft":
            file["a"] = ONES
            file["b"] = h5py.SoftLink("/a")
        elif kind == "external":
            file["b"] = h5py.ExternalLink("/etc/hostname", "/x")
        elif kind == "elsewhere":
            file.create_dataset("b", (3,), "f4", external=[("/etc/hostname", 0, 12)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3,), "f4")
            layout[:] = h5py.VirtualSource("/etc/hostname", "x", (3,))
            file.create_virtual_dataset("b", layout)
        elif kind == "huge":
            file.create_dataset("b", (1 << 40,), "f4", chunks=(1 << 20,))
        elif kind == "round":
            file["b/c"] = ONES
            file["b/again"] = file["b"]


HOSTILE_HDF5 = {
    "soft": "is a link", "external": "is a link", "elsewhere": "other files", "virtual": "other files",
    "huge": "far more than", "round": "more groups than",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE_HDF5)
def test_a_hostile_hdf5_is_refused(kind: str, tmp_path: Path) -> None:
    _linked(tmp_path / "a.h5", kind)
    with pytest.raises(ContentError, match=HOSTILE_HDF5[kind]):
        open_checkpoint(tmp_path / "a.h5")
    data = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(data[:200])
    with pytest.raises(ContentError, match="damaged"):
        open_checkpoint(tmp_path / "a.h5")


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UsageError, match="needs h5py") as caught:
        open_checkpoint(FOREIGN / "keras.weights.h5")
    assert "rebasin-cli[keras]" in caught.value.remedy


def test_a_whole_keras_model_says_how_to_unpack_it(tmp_path: Path) -> None:
    _zip(tmp_path / "m.keras", {"config.json": b"{}", "model.weights.h5": (FOREIGN / "keras.weights.h5").read_bytes()})
    with pytest.raises(ContentError, match=r"a Keras model") as caught:
        open_checkpoint(tmp_path / "m.keras")
    assert caught.value.remedy.endswith(f"unzip {tmp_path / 'm.keras'} model.weights.h5")
    zipfile.ZipFile(tmp_path / "m.keras").extract("model.weights.h5", tmp_path)
    assert len(open_checkpoint(tmp_path / "model.weights.h5")) == 8
