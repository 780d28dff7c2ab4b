"""What is no file in the place of one: pipes, devices, sockets, folders and symlinks without an end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.torture.cases import Case

_FILES = (
    ("checkpoint", "x.safetensors"), ("checkpoint", "x.pt"), ("permutation", "x.safetensors"), ("spec", "x.yaml"),
    ("data", "x.npz"), ("data", "x.safetensors"),
    ("data", "x.txt"), ("document", "x.json"), ("config", "x.json"),
)  # fmt: skip
_IN_FOLDERS = (
    ("folder", "m", "config.json"), ("folder", "m", "model.safetensors.index.json"),
    ("folder", "m", "model-00001-of-00002.safetensors"), ("folder", "m", "tokenizer.json"),
    ("data", "idx", "t10k-images-idx3-ubyte"), ("data", "idx", "t10k-labels-idx1-ubyte.gz"),
    ("images", "images", "cat/0.png"), ("images", "images", "cat"),
)  # fmt: skip


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


NODES: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "socket": _socket,
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "null": lambda path: path.symlink_to("/dev/null"),
    "random": lambda path: path.symlink_to("/dev/urandom"),
    "memory": lambda path: path.symlink_to("/proc/self/mem"),
    "stdin": lambda path: path.symlink_to("/dev/stdin"),
    "empty": lambda path: path.write_bytes(b""),
    "sparse": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40),
    "unreadable": lambda path: (path.write_bytes(b"x"), path.chmod(0)),
    "up": lambda path: path.symlink_to(".."),
    "hundred": lambda path: [
        os.symlink(f"{path.name}.{at + 1}" if at else f"{path.name}.1", f"{path}.{at}" if at else path)
        for at in range(100)
    ],
}


def cases() -> Iterator[Case]:
    """All of them."""
    for node, make in NODES.items():
        for kind, file in _FILES:
            yield Case(f"node/{node}-{kind}-{file}", kind, file, make)
        for kind, folder, inner in _IN_FOLDERS:
            yield Case(f"node/{node}-{folder}-{inner.replace('/', '-')}", kind, "x", _inside(make, folder, inner))


def _inside(make: Callable[[Path], object], stock: str, inner: str) -> Callable[[Path], None]:
    import shutil

    def build(folder: Path) -> None:
        shutil.copytree(folder.parent / stock, folder)
        place = folder / inner
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        make(place)

    return build
