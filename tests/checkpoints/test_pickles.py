from __future__ import annotations

import argparse
import datetime
import decimal
import enum
import fractions
import functools
import io
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.tensors import scan
from rebasin_cli.checkpoints.writer import write_checkpoint
from rebasin_cli.errors import ContentError, SystemFailure
from tests.checkpoints.building import run_python

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(path: Path, value: Any, *, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


class Executes:
    """A pickle of this makes a folder when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@FORMATS
def test_a_state_dict_is_read_in_its_order(zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    state = OrderedDict(
        w=base.T, tied=base, row=base[1], flag=torch.tensor(True), half=torch.ones(2).bfloat16(),
        parameter=torch.nn.Parameter(torch.ones(2)), empty=torch.zeros(0, 3), scalar=torch.tensor(3),
        spread=torch.ones(1).expand(5),
    )  # fmt: skip
    with open_checkpoint(save(tmp_path / "model.pt", state, zipped=zipped)) as checkpoint:
        assert list(checkpoint) == list(state)
        assert not checkpoint.is_folder
        for key, value in state.items():
            assert torch.equal(checkpoint[key], value.detach())
            assert checkpoint.infos[key].shape == tuple(value.shape)
        checkpoint["tied"].zero_()
        assert torch.equal(checkpoint["w"], base.T)


@FORMATS
@pytest.mark.parametrize(
    "path", [["state_dict"], ["model"], ["model_state_dict"], ["ema"], ["model", "state_dict"], ["net", "module"]]
)
def test_a_state_dict_is_found_under_its_usual_names(path: list[str], zipped: bool, tmp_path: Path) -> None:
    value: Any = {"w": torch.ones(2), "n": 4}
    for name in reversed(path):
        value = {"epoch": 3, "best": torch.tensor(0.9), name: value}
    checkpoint = open_checkpoint(save(tmp_path / "model.pth", value, zipped=zipped))
    assert list(checkpoint) == ["w"]
    assert checkpoint.notes == (
        *(f"the state dict is {name!r} of the file; left out: epoch, best" for name in path),
        "not tensors, left out: n (int)",
    )


def test_the_trained_weights_come_before_their_average(tmp_path: Path) -> None:
    value = {"ema": {"w": torch.zeros(1)}, "state_dict": {"w": torch.ones(1)}, "optimizer": {"state": {}}}
    checkpoint = open_checkpoint(save(tmp_path / "model.ckpt", value))
    assert checkpoint["w"].item() == 1
    assert "left out: ema, optimizer" in checkpoint.notes[0]


@FORMATS
def test_a_pickle_that_wants_to_execute_code_is_refused(zipped: bool, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = save(tmp_path / "model.pt", {"w": torch.ones(2), "x": Executes(trap)}, zipped=zipped)
    with pytest.raises(ContentError) as caught:
        open_checkpoint(path)
    assert "wants to call posix.mkdir" in caught.value.what
    assert "nothing was executed" in caught.value.what
    assert "save the state dict alone" in caught.value.remedy
    assert not trap.exists()
    torch.load(path, weights_only=False)  # what a careless reader would have done
    assert trap.exists()


def test_a_whole_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match=r"holds a torch\.nn\.modules\.linear\.Linear, not a state dict") as caught:
        open_checkpoint(save(tmp_path / "model.pt", torch.nn.Linear(2, 2)))
    assert "save the state dict alone" in caught.value.remedy


class Settings(OrderedDict[str, int]):
    pass


BESIDE: dict[str, Any] = {
    "namespace": argparse.Namespace(lr=0.1, inner=argparse.Namespace(x=1)),
    "numpy scalar": np.float64(0.9),
    "numpy array": np.arange(6.0).reshape(2, 3),
    "numpy text": np.array(["a", "b"]),
    "path": pathlib.PurePosixPath("runs/1"),
    "time": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    "span": datetime.timedelta(3),
    "ordered": Settings(a=1),
    "default": defaultdict(list, a=[1]),
    "counter": Counter("aab"),
    "class": torch.optim.Adam,
    "function": torch.nn.functional.relu,
    "partial": functools.partial(torch.optim.SGD, lr=0.1),
    "optimizer": torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]),
    "enum": enum.Enum("Mode", {"TRAIN": 1}, module=__name__).TRAIN,
    "decimal": decimal.Decimal("0.1"),
    "fraction": fractions.Fraction(1, 3),
    "set": {1, (2, 3)},
    "frozen set": frozenset("ab"),
    "complex": 1 + 2j,
    "bytes": b"\xff\x00",
    "bytearray": bytearray(b"\xff"),
    "range": range(3),
    "slice": slice(1, 2),
    "device": torch.device("cpu"),
    "type": torch.bfloat16,
    "size": torch.Size([1, 2]),
    "generator": torch.get_rng_state(),
    "keys of all kinds": {1: 1, 2.5: 1, None: 1, (1, (2, 3)): 1, b"x": 1, torch.float32: 1},
    "big": 10**400,
}
Mode = type(BESIDE["enum"])


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", BESIDE)
def test_entries_other_than_weights_are_left_out(name: str, protocol: int, zipped: bool, tmp_path: Path) -> None:
    state = {"w": torch.arange(6.0).reshape(2, 3).T, "b": torch.nn.Parameter(torch.ones(3))}
    path = tmp_path / "model.pt"
    value = {"before": BESIDE[name], "state_dict": state, "after": [BESIDE[name]]}
    torch.save(value, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint) == ["w", "b"]
        assert torch.equal(checkpoint["w"], state["w"])
        assert torch.equal(checkpoint["b"], state["b"])
        assert all(len(note) < 500 for note in checkpoint.notes)


def test_classes_are_named_and_not_imported(tmp_path: Path) -> None:
    package = tmp_path / "strange_package.py"
    package.write_text("class Config:\n    pass\n")
    code = "import sys, torch; sys.path.insert(0, sys.argv[1]); import strange_package as s; "
    code += (
        "torch.save({'model': {'w': torch.ones(2)}, 'config': s.Config(), 'more': [s.Config()]}, sys.argv[1] + '/m.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    checkpoint = open_checkpoint(tmp_path / "m.pt")
    assert checkpoint.notes == (
        "the state dict is 'model' of the file; left out: config (strange_package.Config), more",
    )
    assert "strange_package" not in sys.modules


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", ">f4", ">i8"]
)
def test_arrays_of_numbers_are_tensors(dtype: str, protocol: int, tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    state = {"c": array, "fortran": np.asfortranarray(array), "view": array[::2, 1:], "scalar": np.array(3, dtype)}
    state |= {"empty": array[:0], "t": torch.ones(1)}
    path = tmp_path / "model.pt"
    torch.save(state, path, pickle_protocol=protocol)
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint) == list(state)
        scan(checkpoint)
        for key in list(state)[:5]:
            native = state[key].astype(array.dtype.newbyteorder("="))
            assert checkpoint.infos[key].shape == native.shape
            assert bytes(checkpoint.read_raw(key).numpy()) == native.tobytes()


@FORMATS
def test_flags_and_large_strides_are_applied(zipped: bool, tmp_path: Path) -> None:
    numbers = torch.randn(4, 3, dtype=torch.complex64)
    wide = torch.arange(3 * (5 << 20), dtype=torch.uint8).reshape(3, -1)
    state = {"conj": numbers.conj(), "neg": numbers.clone().conj().imag, "column": wide[:, 7], "part": wide[:, ::999].T}
    with open_checkpoint(save(tmp_path / "model.pt", state, zipped=zipped)) as checkpoint:
        scan(checkpoint)
        for key, value in state.items():
            assert torch.equal(checkpoint[key], value), key


def test_files_of_other_machines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    state = {"w": torch.arange(6.0), "c": torch.randn(2, dtype=torch.complex64), "h": torch.ones(3).half()}
    swapped = {key: value.numpy().byteswap() for key, value in state.items()}
    torch.save({key: torch.from_numpy(value) for key, value in swapped.items()}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "big.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("/byteorder") else old.read(name))
    with open_checkpoint(tmp_path / "big.pt") as checkpoint:
        for key, value in state.items():
            assert torch.equal(checkpoint[key], value), key


def _rewritten(path: Path, change: Callable[[str, bytes], bytes], **how: Any) -> Path:
    target = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", **how) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_records_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", {"w": torch.ones(100)})
    short = _rewritten(path, lambda name, data: data[:-4] if name.endswith("data/0") else data)
    with pytest.raises(ContentError, match=r"w: the record model/data/0 has 396 bytes, and the pickle claims 400"):
        open_checkpoint(short)
    packed = _rewritten(path, lambda name, data: data, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ContentError, match="is compressed"):
        open_checkpoint(packed)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data/0", bytes(400))
    with pytest.raises(ContentError, match="two records of one name"):
        open_checkpoint(path)


@FORMATS
def test_a_file_that_changes_meanwhile_is_noticed(zipped: bool, tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", {"w": torch.ones(3000)}, zipped=zipped)
    checkpoint = open_checkpoint(path)
    save(path, {"w": torch.zeros(3000)}, zipped=zipped)
    os.utime(path, ns=(1, 1))
    with pytest.raises(SystemFailure, match="was changed while it was being read"):
        checkpoint["w"]
    with pytest.raises(SystemFailure, match="was changed while it was being read"):
        scan(checkpoint)


def test_a_file_that_shrinks_ends_no_process(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", {"w": torch.ones(1 << 20)})
    done = run_python(
        """
        from rebasin_cli.checkpoints.opening import open_checkpoint
        from rebasin_cli.errors import SystemFailure
        checkpoint = open_checkpoint(Path(sys.argv[1]))
        os.truncate(sys.argv[1], 4096)
        try:
            checkpoint["w"].sum()
        except SystemFailure as error:
            print(error)
        """,
        path,
    )
    assert done.returncode == 0
    assert "was changed while it was being read" in done.stdout


@FORMATS
def test_a_file_takes_the_memory_of_a_tensor(zipped: bool, tmp_path: Path) -> None:
    state = {f"w{i}": torch.full((8 << 20,), float(i)) for i in range(8)}  # 32 MiB each
    path = save(tmp_path / "model.pt", state, zipped=zipped)
    done = run_python(
        """
        import resource
        from rebasin_cli.checkpoints.opening import open_checkpoint
        from rebasin_cli.checkpoints.tensors import scan
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        before = peak()
        with open_checkpoint(Path(sys.argv[1])) as checkpoint:
            scan(checkpoint)
            for key in checkpoint:
                checkpoint[key]
        print(peak() - before)
        """,
        path,
    )
    assert int(done.stdout) < 100, done.stderr  # MiB, of 256


@FORMATS
def test_a_truncated_file(zipped: bool, tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", {"w": torch.ones(3000)}, zipped=zipped)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ContentError, match=r"truncated|unexpected EOF") as caught:
        open_checkpoint(path)
    assert "download or save it again" in caught.value.remedy


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def _plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"w": 1}, protocol=4))


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("\x80\x02", "storages"):  # a name that makes it begin as a pickle does
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    content = bytearray(path.read_bytes())
    content[:2] = b"\x80\x02"
    content[148:156] = b"%06o\0 " % sum(content[:148] + b" " * 8 + content[156:512])
    path.write_bytes(content)


def _other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_script, "a TorchScript program"),
        (_plain_pickle, "not one of torch's"),
        (_tar, "of before 2017"),
        (_other_zip, "a zip archive of other files"),
        (lambda path: save(path, [torch.ones(1)]), "the file holds a list"),
        (lambda path: save(path, {"epoch": 1, "x": {"y": 2}}), r"it has epoch \(int\), x \(dict\)"),
        (lambda path: save(path, {}), "it has nothing"),
        (lambda path: save(path, {0: torch.ones(1)}), "a tensor has the name 0"),
        (lambda path: save(path, {"__metadata__": torch.ones(1)}), "a tensor has the name '__metadata__'"),
        (lambda path: save(path, {"w": torch.ones(1, dtype=torch.complex128)}), "torch.complex128"),
        (lambda path: save(path, {"w": torch.eye(2).to_sparse()}), "torch.sparse_coo"),
        (lambda path: save(path, {"w": torch.quantize_per_tensor(torch.ones(1), 0.1, 0, torch.qint8)}), "is packed"),
    ],
)
def test_what_has_no_state_dict_is_refused(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    make(path)
    with pytest.raises(ContentError, match=message) as caught:
        open_checkpoint(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_it_is_written_as_safetensors(tmp_path: Path) -> None:
    state = {"flag": torch.tensor([True]), "w": torch.randn(3, 2).T, "n": torch.tensor(7)}
    checkpoint = open_checkpoint(save(tmp_path / "model.pt", {"model": state}))
    write_checkpoint(tmp_path / "out.safetensors", checkpoint, checkpoint.__getitem__, metadata={"rebasin.x": "1"})
    loaded = load_file(tmp_path / "out.safetensors")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    written = open_checkpoint(tmp_path / "out.safetensors")
    assert written.metadata == {"format": "pt", "rebasin.x": "1"}  # transformers refuses a file without the format


@FORMATS
def test_it_is_scanned(zipped: bool, tmp_path: Path) -> None:
    import hashlib

    state = {"w": torch.tensor([1.0, float("nan"), 3.0])[::2], "v": torch.tensor([[float("inf")], [float("nan")]])}
    path = save(tmp_path / "model.pt", state, zipped=zipped)
    seen: list[int] = []
    result = scan(open_checkpoint(path), seen.append)
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert result.non_finite == {"v": 2}
    assert sum(seen) == 16
