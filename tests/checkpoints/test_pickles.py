from __future__ import annotations

import argparse
import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rebasin_cli.checkpoints import open_checkpoint, scan, write_checkpoint
from rebasin_cli.errors import ContentError

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


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"w": torch.ones(1), "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_an_object_is_named(value: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(ContentError, match=f"wants to call {named}"):
        open_checkpoint(save(tmp_path / "model.pt", value))


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
