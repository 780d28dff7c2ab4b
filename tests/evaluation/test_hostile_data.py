"""Data and folders from someone else: nothing is waited for, started or blown up, and there is one error."""

from __future__ import annotations

import gzip
import io
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rebasin_cli.errors import ContentError, RebasinError, SystemFailure
from rebasin_cli.evaluation.data import load_data
from rebasin_cli.evaluation.images import MOST_PIXELS, Preparation, load_images
from rebasin_cli.evaluation.text import load_text
from rebasin_cli.evaluation.user_code import module_files
from rebasin_cli.pipeline.data_request import DataRequest
from tests.deadline import deadline

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    with deadline(20):
        yield


def images(path: Path) -> None:
    load_images(path, "test", None, Preparation())


def png(width: int, height: int, chunks: bytes = b"") -> bytes:
    """An image of one colour; `chunks` stand before the pixels."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunks + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("name", ["1.png", "1.jpg", "1.eps"])
def test_no_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    eps = pytest.importorskip("PIL.EpsImagePlugin")
    started = tmp_path / "started"
    for program in ("gs", "gswin32c", "gswin64c"):
        (tmp_path / program).write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(eps, "gs_binary", None)
    file = tmp_path / "data" / "cat" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(EPS)
    with pytest.raises(ContentError):
        images(tmp_path / "data")
    assert not started.exists()


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(png(10_000, MOST_PIXELS // 10_000 + 1))
    with pytest.raises(ContentError, match=r"has 10000 × 5001 pixels, and 50,000,000 are allowed"):
        images(tmp_path)
    (tmp_path / "cat" / "1.png").write_bytes(
        png(2, 2).replace(struct.pack(">II", 2, 2), struct.pack(">II", 60000, 60000))
    )
    with pytest.raises(ContentError):
        images(tmp_path)
    assert not recwarn.list


def test_text_in_an_image_is_bounded(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "cat").mkdir()
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))
    (tmp_path / "cat" / "1.png").write_bytes(png(2, 2, bomb))
    with pytest.raises(ContentError, match="not a readable image"):
        images(tmp_path)


def test_images_beyond_the_memory_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "cat").mkdir()
    for i in range(4):
        (tmp_path / "cat" / f"{i}.png").write_bytes(png(1000, 1000))
    monkeypatch.setattr("rebasin_cli.evaluation.images.free_memory", lambda: 1 << 20)
    with pytest.raises(ContentError, match="4 images of 1000 × 1000 pixels need") as caught:
        images(tmp_path)
    assert "--image-size" in caught.value.remedy


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "idx").mkdir()
    pipes = (
        "a.npz",
        "a.safetensors",
        "images/cat/1.png",
        "idx/t10k-images-idx3-ubyte",
        "idx/t10k-labels-idx1-ubyte.gz",
    )
    for name in pipes:
        os.mkfifo(tmp_path / name)
    for path in (tmp_path / "a.npz", tmp_path / "a.safetensors", tmp_path / "idx"):
        with pytest.raises(RebasinError, match="not a regular file"):
            load_data(path)
    with pytest.raises(SystemFailure, match="not a regular file but a pipe"):
        images(tmp_path / "images")


def npz(path: Path, shape: tuple[int, ...], written: int) -> Path:
    """An archive whose arrays say `shape` and have `written` zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in ("inputs", "targets"):
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(head.getvalue())
                for start in range(0, written, 1 << 24):
                    member.write(bytes(min(1 << 24, written - start)))
    return path


def test_an_archive_that_explodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="far more than") as caught:
        load_data(npz(tmp_path / "bomb.npz", (1, 300 << 20), 300 << 20))
    assert "save it uncompressed" in caught.value.remedy


def test_an_array_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    for shape in ((10**18, 1), (2**40, 2**40), (1 << 34, 1)):
        with pytest.raises(ContentError, match=r"cannot be read as an \.npz archive"):
            load_data(npz(tmp_path / "claims.npz", shape, 100))


def test_an_idx_file_that_explodes_is_refused(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "t10k-images-idx3-ubyte.gz", "wb", 9) as file:
        file.write(bytes([0, 0, 8, 2]) + struct.pack(">II", 600, 1 << 20))
        for _ in range(40):
            file.write(bytes(1 << 24))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + struct.pack(">I", 600) + bytes(600))
    with pytest.raises(ContentError, match="far more than"):
        load_data(tmp_path)


def test_an_idx_file_without_end_is_not_read(tmp_path: Path) -> None:
    for name, axes in (("images-idx3", (4, 2, 2)), ("labels-idx1", (4,))):
        with open(tmp_path / f"t10k-{name}-ubyte", "wb") as file:
            file.write(bytes([0, 0, 8, len(axes)]) + struct.pack(f">{len(axes)}I", *axes))
            file.truncate(1 << 40)
    with pytest.raises(ContentError, match="needs 32 bytes and there are 1099511627776"):
        load_data(tmp_path)


def folder(path: Path, config: str) -> Path:
    path.mkdir()
    (path / "config.json").write_text(config)
    (path / "evil.py").write_text(f"open({str(path / 'ran')!r}, 'w').close()\nclass C: pass\n")
    return path


AUTO_MAP = (
    '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoTokenizer": ["evil.C", null],'
    ' "AutoImageProcessor": "evil.C"}}'
)


def test_code_in_a_folder_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from rebasin_cli.evaluation.libraries import from_folder

    model = folder(tmp_path / "model", AUTO_MAP)
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        (model / name).write_text(AUTO_MAP)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))  # the answer to every question
    (model / "text.txt").write_text("a text")
    for auto in ("AutoConfig", "AutoTokenizer", "AutoImageProcessor"):
        with pytest.raises(ContentError):
            from_folder(auto, model)
    with pytest.raises(ContentError):
        load_text(model / "text.txt", model, None, None)
    (model / "cat").mkdir()
    (model / "cat" / "1.png").write_bytes(png(2, 2))
    with pytest.raises(ContentError):
        load_images(model, "test", None, Preparation(folder=model))
    assert not (model / "ran").exists()
    assert sys.stdin.read(2) == "y\n"


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from rebasin_cli.evaluation.libraries import from_folder

    model = folder(tmp_path / "model", '{"model_type": "gpt2"}')
    os.mkfifo(model / "tokenizer.json")
    with pytest.raises(SystemFailure, match="not a regular file but a pipe"):
        from_folder("AutoTokenizer", model)


@pytest.mark.parametrize("size", ['"n_layer": 1000000', '"vocab_size": 100000000000', '"n_positions": 10000000000'])
def test_a_config_of_another_size_builds_nothing(tmp_path: Path, size: str) -> None:
    transformers = pytest.importorskip("transformers")
    from rebasin_cli.evaluation.networks.pretrained import config_of

    model = folder(tmp_path / "model", f'{{"model_type": "gpt2", "n_embd": 8, "n_head": 2, {size}}}')
    with pytest.raises(ContentError, match="and the checkpoint has"):
        config_of(transformers.GPT2LMHeadModel, model, {"w": torch.zeros(4)})


def test_a_users_own_module_is_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package").mkdir()
    for name in ("package/__init__.py", "package/inner.py", "single.py"):
        (tmp_path / name).write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    assert module_files("package.inner:make") == [tmp_path / "package/__init__.py", tmp_path / "package/inner.py"]
    assert module_files("absent.module:make") == module_files("sys:exit") == []
    request = DataRequest(
        path=Path("single:data"), metrics=("top5", "single:metric"), loss="mse", network="package:net"
    )
    assert set(request.code()) == {tmp_path / "single.py", tmp_path / "package/__init__.py"}
