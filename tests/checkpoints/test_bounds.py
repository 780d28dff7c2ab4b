"""Files that state more than they hold, or would take unlimited time, end with one error."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.unpickling import MAX_STEPS, MAX_THINGS
from rebasin_cli.errors import ContentError, SystemFailure
from rebasin_cli.files import MAX_VALUES, parse_json, read_bytes, read_json, read_text
from tests.deadline import deadline


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    with deadline(120):
        yield


def pickled(path: Path, data: bytes) -> Path:
    """A file of torch.save with this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/version", "3\n")
    return path


def test_thirty_thousand_tensors_of_torch_open(tmp_path: Path) -> None:
    whole = torch.zeros(30_000)
    torch.save({f"layers.{i}.weight": whole[i : i + 1] for i in range(len(whole))}, tmp_path / "many.pt")
    assert len(open_checkpoint(tmp_path / "many.pt")) == 30_000


@pytest.mark.parametrize("step", [b"K\x010", b"ctorch\nFloatStorage\n0", b"I10\n0"])
def test_a_pickle_of_too_many_steps_is_refused(tmp_path: Path, step: bytes) -> None:
    path = pickled(tmp_path / "steps.pt", b"\x80\x02}" + step * (MAX_STEPS // 2) + b".")
    with pytest.raises(ContentError, match="steps, which weights do not need"):
        open_checkpoint(path)


def test_a_pickle_of_too_many_objects_is_refused(tmp_path: Path) -> None:
    path = pickled(tmp_path / "things.pt", b"\x80\x04}" + b"\x8f0" * (MAX_THINGS + 1) + b".")
    with pytest.raises(ContentError, match="objects, which weights do not need"):
        open_checkpoint(path)


def test_views_that_repeat_a_few_bytes_are_refused(tmp_path: Path) -> None:
    torch.save({f"t.{i}": torch.zeros(1).expand(60_000_000) for i in range(40)}, tmp_path / "views.pt")
    with pytest.raises(ContentError, match=r"its tensors have 9\.6 GB, and the file has"):
        open_checkpoint(tmp_path / "views.pt")


def test_a_name_without_end_is_refused(tmp_path: Path) -> None:
    save_file({"a" * 4096: torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ContentError, match="a name of 4,096 characters, and 400 are allowed"):
        open_checkpoint(tmp_path / "a.safetensors")


def test_a_header_of_lists_is_not_built(tmp_path: Path) -> None:
    head = b'{"a":[' + b"[]," * MAX_VALUES + b"[]]}"
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    with pytest.raises(ContentError, match="more than 2,500,000 values"):
        open_checkpoint(tmp_path / "a.safetensors")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    cases = {
        "pipe": "but a pipe",
        "loop": "links that point at one another",
        ".": "it is a folder",
        "no": "no such file",
    }
    for name, told in cases.items():
        with pytest.raises(SystemFailure, match=told):
            read_bytes(tmp_path / name, 10)
    with pytest.raises(SystemFailure, match="but a device"):
        read_bytes(Path("/dev/zero"), 10)


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ContentError, match="more than 1 kB"):
        read_text(tmp_path / "sparse", 1000, "a text", "give another")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "[" + "1," * MAX_VALUES + "1]", "{", "\ud800"])
def test_json_that_is_none_is_one_kind_of_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ContentError, match=r"a\.json is not JSON"):
        read_json(tmp_path / "a.json", 1 << 30)
