"""Honest files with something changed: bits, slices, blocks, ends, and numbers of texts. The seed decides what."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.torture.cases import NUMBERS
from tests.torture.hostile import COMMANDS, Command, Plan, attack
from tests.torture.judging import Row

# (file of the stock, kind): what is mutated and which commands read it.
_FILES = (
    ("b.safetensors", "checkpoint"), ("b.pt", "checkpoint"), ("old.pt", "checkpoint"), ("b.npz", "checkpoint"),
    ("b.msgpack", "checkpoint"), ("b.h5", "checkpoint"), ("p.safetensors", "permutation"),
    ("data.npz", "data"), ("data.safetensors", "data"), ("idx/t10k-images-idx3-ubyte", "data"),
    ("idx/t10k-labels-idx1-ubyte.gz", "data"),
    ("images/cat/0.png", "images"), ("size.yaml", "spec"), ("spec.yaml", "spec"), ("run.json", "document"),
    ("align.json", "document"),
    ("m/config.json", "folder"), ("m/model.safetensors.index.json", "folder"),
    ("m/model-00001-of-00002.safetensors", "folder"),
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_HEAD = 1500  # bytes from the start in which half of the changes are: headers are what is parsed


def run(stock: Path, only: str, most: int | None, seed: int) -> Iterator[Row]:
    """Attack with `most` mutations in all, one row for each kind of file."""
    rows: dict[str, Row] = {}
    for number in range(most or 2_000):
        file, kind = _FILES[number % len(_FILES)]
        name = f"{file}:{number}"
        if not name.startswith(only):
            continue
        row = rows.setdefault(kind, Row(f"mutated: {kind}"))
        chosen = random.Random(f"{seed}-{number}")
        line = chosen.choice(COMMANDS[kind])
        command = Command.parse(line, file.partition("/")[0])
        attack(Plan(f"mutated {name}", command, _mutating(file, chosen)), stock, row)
    yield from rows.values()


def _mutating(file: str, chosen: random.Random) -> Callable[[Path], None]:
    def make(work: Path) -> None:
        path = work / file
        data = path.read_bytes()
        for _ in range(chosen.choice((1, 1, 1, 2, 5))):
            data = chosen.choice(MUTATIONS)(data, chosen)
        path.write_bytes(data)

    return make


def _place(data: bytes, chosen: random.Random) -> int:
    return chosen.randrange(max(1, min(len(data), _HEAD) if chosen.random() < 0.5 else len(data)))


def _flip(data: bytes, chosen: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(chosen.choice((1, 1, 8))):
        changed[_place(data, chosen)] ^= 1 << chosen.randrange(8)
    return bytes(changed)


def _byte(data: bytes, chosen: random.Random) -> bytes:
    at = _place(data, chosen)
    return data[:at] + chosen.choice((b"\0", b"\xff", b"\x1b", b"\n", b'"', b"{", b"[", b"\x80")) + data[at + 1 :]


def _cut(data: bytes, chosen: random.Random) -> bytes:
    return data[: _place(data, chosen)]


def _remove(data: bytes, chosen: random.Random) -> bytes:
    at = _place(data, chosen)
    return data[:at] + data[at + chosen.choice((1, 2, 8, 64, 512)) :]


def _insert(data: bytes, chosen: random.Random) -> bytes:
    at = _place(data, chosen)
    return data[:at] + chosen.randbytes(chosen.choice((1, 2, 8, 64))) + data[at:]


def _double(data: bytes, chosen: random.Random) -> bytes:
    at, size = _place(data, chosen), chosen.choice((1, 8, 64, 512))
    return data[: at + size] + data[at:]


def _swap(data: bytes, chosen: random.Random) -> bytes:
    first, second = sorted((_place(data, chosen), _place(data, chosen)))
    size = min(chosen.choice((1, 8, 64)), second - first)
    between = data[first + size : second]
    return data[:first] + data[second : second + size] + between + data[first : first + size] + data[second + size :]


def _number(data: bytes, chosen: random.Random) -> bytes:
    found = list(_NUMBER.finditer(data[: 64 * _HEAD]))
    if not found:
        return _flip(data, chosen)
    one = chosen.choice(found)
    return data[: one.start()] + chosen.choice(NUMBERS).encode() + data[one.end() :]


def _extreme(data: bytes, chosen: random.Random) -> bytes:
    at, size = _place(data, chosen), chosen.choice((1, 2, 4, 8))
    value = chosen.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size
    return data[:at] + value + data[at + size :]


MUTATIONS = (_flip, _byte, _cut, _remove, _insert, _double, _swap, _number, _number, _extreme)
