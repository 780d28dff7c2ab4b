from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.tensors import tensor_bytes
from rebasin_cli.errors import ContentError, SystemFailure
from tests.checkpoints.building import entry, every_dtype_file, run_python, safetensors_bytes

FOREIGN = {
    "page": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page of 46 bytes", "download it again"),
    "xml": (b"<?xml version='1.0'?><Error/>", "an HTML page", "download it again"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n",
        "a git-lfs pointer",
        "git lfs pull",
    ),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(40), "a GGUF file", "the model it was made of"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(40), "the HDF5 file is damaged", "write it again"),
    "npy": (b"\x93NUMPY\x01\0" + bytes(40), "a NumPy array", "safetensors"),
    "gzip": (b"\x1f\x8b\x08" + bytes(40), "a gzip archive", "unpack"),
    "text": (
        b"Entry not found\nor so",
        "a text file and not a checkpoint; it begins with 'Entry not found'",
        "safetensors",
    ),
    "short text": (b"hello", "a text file", "safetensors"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_recognised(name: str, tmp_path: Path) -> None:
    content, what, remedy = FOREIGN[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ContentError) as caught:
        open_checkpoint(path)
    assert what in caught.value.what
    assert remedy in caught.value.remedy
    assert caught.value.where == str(path)


def test_every_dtype_is_read_byte_for_byte(tmp_path: Path) -> None:
    content, infos = every_dtype_file()
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with open_checkpoint(path) as checkpoint:
        assert dict(checkpoint.infos) == infos
        assert b"".join(bytes(checkpoint.read_raw(key).numpy()) for key in checkpoint) == content[-checkpoint.nbytes :]
        for key, info in infos.items():
            assert tuple(checkpoint[key].shape) == info.shape
        assert checkpoint.metadata == {"format": "pt", "näme": "λ"}


def test_contents_decide_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    save_file({"w": torch.ones(2)}, path)
    assert open_checkpoint(path).shards[0].name == "model.safetensors"


def test_a_header_that_begins_like_a_pickle_is_not_one(tmp_path: Path) -> None:
    text = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    path = tmp_path / "model"
    path.write_bytes(safetensors_bytes(text + b" " * (0x280 - len(text)), b"1"))
    assert path.read_bytes().startswith(b"\x80\x02")
    assert list(open_checkpoint(path)) == ["a"]


def test_a_checkpoint_is_a_lazy_mapping(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"b": torch.ones(2), "a": torch.zeros(3)}, path)
    checkpoint = open_checkpoint(path)
    path.unlink()  # from here on every read fails
    assert "a" in checkpoint
    assert "c" not in checkpoint
    assert len(checkpoint) == 2
    assert checkpoint.nbytes == 20
    assert checkpoint == checkpoint
    with pytest.raises(SystemFailure, match="there is no such file"):
        checkpoint["a"]


def test_reads_are_the_callers_own(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    with open_checkpoint(path) as checkpoint:
        checkpoint["a"].fill_(7)
        assert checkpoint["a"].tolist() == [0, 0, 0]
        with pytest.raises(KeyError):
            checkpoint["b"]
    with pytest.raises(ValueError, match="closed"):
        checkpoint["a"]


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    checkpoint = open_checkpoint(path)
    save_file({"a": torch.zeros(4)}, path)
    with pytest.raises(SystemFailure, match="was changed while it was being read"):
        checkpoint["a"]


def test_config_next_to_a_single_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    assert open_checkpoint(path).config is None
    (tmp_path / "config.json").write_text('{"n_head": 12}')
    assert open_checkpoint(path).config == {"n_head": 12}
    (tmp_path / "config.json").write_text("lr: 0.1")
    checkpoint = open_checkpoint(path)
    assert checkpoint.config is None
    assert "was not used" in checkpoint.notes[0]


QUANTISED = {
    "GPTQ": {"l.qweight": "I32", "l.qzeros": "I32", "l.scales": "F16", "l.g_idx": "I32"},
    "AWQ": {"l.qweight": "I32", "l.qzeros": "I32", "l.scales": "F16"},
    "bitsandbytes, 4 bits": {"l.weight": "U8", "l.weight.absmax": "F32", "l.weight.quant_map": "F32"},
    "bitsandbytes": {"l.weight": "U8", "l.weight.absmax": "U8"},
    "bitsandbytes, 8 bits": {"l.weight": "I8", "l.SCB": "F32"},
    "block-wise fp8": {"l.weight": "F8_E4M3", "l.weight_scale_inv": "F32"},
    "compressed-tensors": {"l.weight_packed": "I32", "l.weight_scale": "F16"},
    "MXFP4": {"l.w_blocks": "U8", "l.w_scales": "U8"},
}


@pytest.mark.parametrize("name", QUANTISED)
def test_packed_weights_are_refused_from_headers(name: str, tmp_path: Path) -> None:
    header = {key: entry(dtype, [0, 4], 0, 0) for key, dtype in QUANTISED[name].items()}
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(header))
    with pytest.raises(ContentError, match="do not survive a permutation") as caught:
        open_checkpoint(path)
    assert f"({name}" in caught.value.what
    assert "quantise the result again" in caught.value.remedy


def test_plain_fp8_is_not_packed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({"l.weight": entry("F8_E4M3", [2], 0, 2)}, b"12"))
    assert torch.equal(tensor_bytes(open_checkpoint(path)["l.weight"]), torch.tensor(list(b"12"), dtype=torch.uint8))


def test_absent_paths_and_special_files(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "absent.safetensors", "there is no such file"),
        (tmp_path / "absent" / "x.safetensors", f"there is no folder {tmp_path / 'absent'}"),
    ):
        with pytest.raises(SystemFailure, match="cannot read") as caught:
            open_checkpoint(path)
        assert message in caught.value.what
        assert caught.value.remedy
    link = tmp_path / "link.safetensors"
    link.symlink_to("gone")
    with pytest.raises(SystemFailure, match="it is a link to gone, which does not exist"):
        open_checkpoint(link)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SystemFailure, match="not a regular file"):
        open_checkpoint(pipe)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    path.chmod(0)
    done = run_python(
        """
        from rebasin_cli.checkpoints.opening import open_checkpoint
        from rebasin_cli.errors import SystemFailure
        become_nobody_in(sys.argv[1])
        try:
            open_checkpoint(Path("model.safetensors"))
        except SystemFailure as error:
            print(error)
        """,
        tmp_path,
    )
    assert "cannot read model.safetensors: permission denied" in done.stdout, done.stderr
    assert "check the permissions" in done.stdout


def test_a_zip_of_arrays_and_more_is_no_checkpoint(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones(2))
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as archive:
        archive.writestr("code.py", "")
    with pytest.raises(ContentError, match=r"a zip archive of NumPy arrays"):
        open_checkpoint(tmp_path / "data.npz")
