"""Safetensors files: every number and name of a header, wrong in every way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from tests.checkpoints.building import entry, safetensors_bytes
from tests.torture.cases import JSONS, NAMES, NUMBERS, Case, of_bytes

_FILE = "x.safetensors"
_WEIGHT = "fc.0.weight"
_SHAPES = {
    "fc.0.weight": [8, 32], "fc.0.bias": [8], "fc.1.weight": [8, 8], "fc.1.bias": [8], "fc.2.weight": [16, 8],
    "fc.2.bias": [16],
}  # fmt: skip


def honest() -> tuple[dict[str, Any], bytes]:
    """Header and data of a network that fits the stock's."""
    header, at = {}, 0
    for name, shape in _SHAPES.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = entry("F32", shape, at, at + size)
        at += size
    return header, b"\x00\x00\x80\x3f" * (at // 4)


def cases() -> Iterator[Case]:
    """All of them."""
    for group in (_lengths, _fields, _offsets, _shapes, _names, _metadata, _large):
        for at, data in enumerate(group()):
            yield of_bytes(f"safetensors/{group.__name__.strip('_')}-{at}", "checkpoint", _FILE, data)


def _lengths() -> Iterator[bytes]:
    header, data = honest()
    text = json.dumps(header).encode()
    lengths = (0, 1, len(text) - 1, len(text) + 1, len(text) + len(data), len(text) + len(data) + 1, 99_999_999)
    for length in (*lengths, 100_000_000, 100_000_001, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1):
        yield length.to_bytes(8, "little") + text + data
    for cut in (0, 1, 7, 8, 9, 12, len(text), len(text) + 8, len(text) + 9, len(text) + len(data)):
        yield safetensors_bytes(text, data)[:cut]
    yield safetensors_bytes(text, data + b"x")
    yield safetensors_bytes(text + b" " * 100_000, data)
    yield safetensors_bytes(b" " * 100_000 + text, data)
    yield safetensors_bytes(text + b"\x00" * 8, data)
    for start in (
        b"PK\x03\x04",
        b"\x80\x02",
        b"\x93NUMPY",
        b"GGUF",
        b"\x1f\x8b",
        b"\x89HDF\r\n",
        b"<html",
        b"#!/bin/sh\n",
        b"\x8f\xa0",
    ):
        yield start + text + data
    yield b"\x1b[31m\nerror: forged\n" + b"text " * 200
    yield b"#\x1b]0;x\x07 " + b"text " * 200
    for text in JSONS:
        yield safetensors_bytes(text, b"")


def _fields() -> Iterator[bytes]:
    values = (
        "null",
        "true",
        "1",
        '"F32"',
        "[]",
        "{}",
        '["F32"]',
        "[[0,4]]",
        '{"a":1}',
        '""',
        '"f32"',
        '"F31"',
        '"float32"',
    )
    values += ('"F32\\u0000"', '"../x"', '"' + "F" * 5000 + '"', '"\\u001b[31m\\nerror: forged"', '"\\ud800"', '"[/]"')
    for field in ("dtype", "shape", "data_offsets"):
        for value in values:
            yield _with(**{field: value})
        yield _without(field)
        header, data = honest()
        text = json.dumps(header)
        yield safetensors_bytes(text.replace(f'"{field}":', f'"{field}": null, "{field}":', 1).encode(), data)
    header, data = honest()
    for extra in ("more", "dtype ", "__proto__", "\x1b[31m\nerror: forged"):
        yield safetensors_bytes({**header, _WEIGHT: {**header[_WEIGHT], extra: 1}}, data)
    for value in (None, 1, [], "x", True, {}):
        yield safetensors_bytes({**header, _WEIGHT: value}, data)
    for dtype in ("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "F6_E2M3", "I32"):
        yield _with(dtype=f'"{dtype}"')


def _offsets() -> Iterator[bytes]:
    end = 8 * 32 * 4
    pairs = (
        (0, 0), (1, end + 1), (end, 0), (-end, 0), (0, end - 1), (0, end + 4), (4, end), (0, end * 2), (-1, end - 1),
        (0, 2**63),
        (2**63, 2**63 + end), (2**64, 2**64 + end), (0.0, float(end)), (False, end), ("0", str(end)),
        (10**400, 10**400 + end), (end, end * 2),
    )  # fmt: skip
    for first, last in pairs:
        yield _with(data_offsets=json.dumps([first, last]))
    for value in ("[0]", "[0, 1024, 2048]", "[[0], [1024]]", "[0, null]", "[0, 1e3]", "[NaN, Infinity]", "[0, 1024.5]"):
        yield _with(data_offsets=value)
    header, data = honest()
    yield safetensors_bytes({name: {**each, "data_offsets": [0, 1024]} for name, each in header.items()}, data)
    yield safetensors_bytes({name: entry("F32", [0], 0, 0) for name in header}, data)
    yield safetensors_bytes({name: entry("F32", [0, 2**62, 2**62], 0, 0) for name in header})
    text = json.dumps(header)
    yield safetensors_bytes((text[:-1] + ", " + text[1:]).encode(), data)
    yield safetensors_bytes((text[:-1] + ', "fc.0.wei\\u0067ht"' + text[text.index(":") :]).encode(), data)


def _shapes() -> Iterator[bytes]:
    for number in NUMBERS:
        yield _with(shape=f"[{number}]")
        yield _with(shape=f"[8, {number}]")
    extreme = (
        [2**32, 2**32],
        [2**31, 2**31, 4],
        [2**63, 0],
        [0, 2**63],
        [1] * 65,
        [1] * 1000,
        [1] * 100_000,
        [],
        [256],
        [8, 32, 1],
        [32, 8],
    )
    for shape in (*extreme, [2**64, 2**64], [-8, -32], [0, 0], [[8, 32]], ["8", "32"]):
        yield _with(shape=json.dumps(shape))
    header, data = honest()
    for bits in (
        b"\x00\x00\xc0\x7f",
        b"\x00\x00\x80\x7f",
        b"\x01\x00\x00\x00",
        b"\xff\xff\x7f\x7f",
        b"\xff\xff\xff\xff",
    ):
        yield safetensors_bytes(header, bits * (len(data) // 4))


def _names() -> Iterator[bytes]:
    header, data = honest()
    for name in NAMES:
        yield safetensors_bytes({name if key == _WEIGHT else key: each for key, each in header.items()}, data)
        yield safetensors_bytes({**header, name: entry("F32", [0], len(data), len(data))}, data)
    for prefix in ("module." * 500, "\x1b[31m.", "a\nerror: forged.", "_orig_mod." * 3, "[/]."):
        yield safetensors_bytes({prefix + key: each for key, each in header.items()}, data)
    yield safetensors_bytes(json.dumps(header).replace("fc.0", "fc.\\u001b").encode(), data)
    yield safetensors_bytes(json.dumps(header).encode().replace(b"fc.0", b"fc.\xff"), data)


def _metadata() -> Iterator[bytes]:
    header, data = honest()
    for value in (
        None,
        1,
        [],
        "x",
        True,
        {"a": 1},
        {"a": None},
        {"a": {}},
        {"a": ["b"]},
        {"format": 1},
        {"format": "tf"},
    ):
        yield safetensors_bytes({"__metadata__": value, **header}, data)
    for name in NAMES:
        yield safetensors_bytes({"__metadata__": {name: "v", "k": name}, **header}, data)
        yield safetensors_bytes(
            {"__metadata__": {"rebasin.inputs.b": name, "rebasin.spec": name, "inputs": name}, **header}, data
        )
    yield safetensors_bytes({"__metadata__": {"k": "v" * (8 << 20)}, **header}, data)
    yield safetensors_bytes({"__metadata__": {str(at): "v" for at in range(100_000)}, **header}, data)
    yield safetensors_bytes({"__metadata__": {"format": "rebasin.permutation/1"}, **header}, data)


def _large() -> Iterator[bytes]:
    yield safetensors_bytes({f"t.{at}": entry("F32", [0], 0, 0) for at in range(100_000)})
    yield safetensors_bytes(
        {f"fc.{at}.weight": entry("F32", [1, 1], 4 * at, 4 * at + 4) for at in range(3_000)}, bytes(12_000)
    )
    yield safetensors_bytes({f"{'n' * 4000}.{at}": entry("F32", [0], 0, 0) for at in range(1_000)})
    yield safetensors_bytes({"a." * at + "weight": entry("F32", [0], 0, 0) for at in range(1_000)})
    yield safetensors_bytes({f"{at}.{at}.{at}.{at}": entry("F32", [0], 0, 0) for at in range(20_000)})
    header, data = honest()
    more = {f"fc.{at}.\x1b[31m": entry("F32", [0], len(data), len(data)) for at in range(1000)}
    yield safetensors_bytes({**header, **more}, data)
    yield _many(f"junk.{at}.weight" for at in range(100_000))
    yield _many(f"fc.{at}.junk" for at in range(100_000))
    yield _many("".join(chr(97 + at // 26**place % 26) for place in range(4)) for at in range(100_000))


def _many(names: Iterable[str]) -> bytes:
    """A network, and after it a tensor of one byte for each name."""
    header, data = honest()
    more = {name: entry("U8", [1, 1], at, at + 1) for at, name in enumerate(names, len(data))}
    return safetensors_bytes({**header, **more}, data + bytes(len(more)))


def _with(**fields: str) -> bytes:
    """A header in which the first tensor has this JSON in a field."""
    header, data = honest()
    marks = {name: f"mark of {name}" for name in fields}
    text = json.dumps({**header, _WEIGHT: {**header[_WEIGHT], **marks}})
    for name, value in fields.items():
        text = text.replace(json.dumps(marks[name]), value)
    return safetensors_bytes(text.encode(), data)


def _without(field: str) -> bytes:
    header, data = honest()
    return safetensors_bytes({**header, _WEIGHT: {k: v for k, v in header[_WEIGHT].items() if k != field}}, data)
