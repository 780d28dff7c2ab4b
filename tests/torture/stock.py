"""Honest files of every kind, made once by the program itself, and a fresh folder of them for every attempt."""

from __future__ import annotations

import contextlib
import functools
import gc
import gzip
import io
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import typer
from safetensors.torch import save_file

from rebasin_cli.cli import main
from tests.checkpoints.building import write_sharded
from tests.small import ROOT, mlp_state, save, save_data, shuffled
from tests.torture.cases import arrays

SPEC = "sizes:\n  n: [config.n, config.deep.n / 2, 4]\ntensors:\n  fc.{i}.weight: h.{i} h.{i-1}\n  fc.{i}.bias: h.{i}\n"
SPEC += "dims:\n  h.{first i-1}: fixed\n  h.{last i}: fixed because they are the outputs\n"
_HALVES = (("fc.0",), ("fc.1", "fc.2"))


def make_stock(folder: Path) -> None:
    """Two networks, what `align` and `interpolate` make of them, and every other kind of file."""
    folder.mkdir()
    state = mlp_state(0)
    other = shuffled(state, 1)
    save(folder / "a.safetensors", state)
    save(folder / "b.safetensors", other, {"note": "B's own"})
    torch.save(other, folder / "b.pt")
    torch.save(other, folder / "old.pt", _use_new_zipfile_serialization=False)
    alone = {key: tensor.numpy() for key, tensor in other.items()}
    np.savez(folder / "b.npz", **alone)
    (folder / "b.msgpack").write_bytes(arrays.flax_bytes(alone))
    arrays.write_hdf5(folder / "b.h5", alone)
    shards = {
        f"model-0000{at + 1}-of-00002.safetensors": {k: t for k, t in other.items() if k.startswith(starts)}
        for at, starts in enumerate(_HALVES)
    }
    write_sharded(folder / "m", shards)
    (folder / "m" / "config.json").write_text(json.dumps({"hidden_size": 8, "model_type": "mlp", "n": 4}))
    save_data(folder / "data.npz")
    examples = np.load(folder / "data.npz")
    save_file({k: torch.from_numpy(examples[k]) for k in examples.files}, folder / "data.safetensors")
    _write_idx(folder / "idx")
    _write_images(folder / "images")
    (folder / "spec.yaml").write_text((ROOT / "architectures" / "mlp.yaml").read_text())
    (folder / "size.yaml").write_text(SPEC)
    with inside(folder):
        run("align", "a.safetensors", "b.safetensors", "-o", "q.safetensors", "--quality", "fast")
        shutil.move("q.permutation.safetensors", "p.safetensors")
        Path("q.safetensors").unlink()
        shutil.move("q.rebasin.json", "align.json")
        command = ("interpolate", "a.safetensors", "b.safetensors", "--permutation", "p.safetensors")
        run(*command, "--steps", "3", "--data", "data.npz", "--report", "run.json")


def _write_idx(folder: Path) -> None:
    folder.mkdir()
    images = b"\0\0\x08\x03" + struct.pack(">3I", 6, 4, 8) + bytes(range(192))
    (folder / "t10k-images-idx3-ubyte").write_bytes(images)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x06" + bytes(range(6))))


def _write_images(folder: Path) -> None:
    from PIL import Image

    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for at in range(2):
            Image.fromarray(np.full((4, 8), 40 * at, np.uint8)).save(folder / name / f"{at}.png")


def run(*arguments: str) -> None:
    """Run the program here, quietly; a part of the warming up, too."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
        code = main(list(arguments))
    if code:
        raise RuntimeError(f"{' '.join(arguments)} ended with {code}: {told.getvalue()}")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The working folder is `folder` meanwhile."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def stocked() -> Iterator[Path]:
    """A folder with the stock, in a process that has loaded what runs need."""
    torch.set_num_threads(1)
    typer.main.get_command = functools.cache(typer.main.get_command)  # it takes longer than most attempts
    with tempfile.TemporaryDirectory(prefix="torture-") as top:
        folder = Path(top) / "stock"
        make_stock(folder)
        with fresh(folder) as work, inside(work / "work"):
            _warm()
        gc.collect()
        gc.freeze()  # children share what is there now
        yield folder


def _warm() -> None:
    """Load everything that a run needs, so that children have it."""
    run("align", "a.safetensors", "b.safetensors", "-o", "w.safetensors")
    run("apply", "p.safetensors", "b.safetensors", "-o", "x.safetensors")
    run("merge", "a.safetensors", "b.safetensors", "-o", "y.safetensors")
    run("align", "a.safetensors", "m", "-o", "z")
    run("interpolate", "a.safetensors", "b.pt", "--steps", "2", "--data", "data.safetensors")
    run("interpolate", "a.safetensors", "old.pt", "--steps", "2", "--data", "idx")
    run("interpolate", "a.safetensors", "b.safetensors", "--steps", "2", "--data", "images")
    for arguments in (
        "inspect b.npz",
        "inspect b.msgpack",
        "inspect b.h5",
        "inspect b.safetensors",
        "arch show spec.yaml",
        "arch check spec.yaml b.safetensors",
    ):
        run(*arguments.split())
    for form in ("--html", "--markdown", "--text"):
        run("report", "run.json", form, f"w{form}")
    run("report", "run.json", "--plot", "w.png")


@contextmanager
def fresh(stock: Path) -> Iterator[Path]:
    """A folder with a copy of the stock in `work`, and empty `tmp` and `home` beside it."""
    with tempfile.TemporaryDirectory(prefix="torture-") as top:
        folder = Path(top)
        shutil.copytree(stock, folder / "work", symlinks=True)
        for name in ("tmp", "home"):
            (folder / name).mkdir()
        yield folder
