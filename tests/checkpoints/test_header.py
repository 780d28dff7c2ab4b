"""Every way in which a safetensors file can be wrong, and the error for it."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open

from rebasin_cli.checkpoints.header import MAX_HEADER, TensorInfo, build_header, parse_header
from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.errors import ContentError
from tests.checkpoints.building import entry, safetensors_bytes

ONE = entry("U8", [4], 0, 4)
FOUR = b"1234"


def _twice(name: str) -> bytes:
    return f'{{"{name}":{json.dumps(ONE)},"{name}":{json.dumps(ONE)}}}'.encode()


# name -> (file, what the error must say)
MALFORMED = {
    "empty": (b"", "the file is empty"),
    "seven bytes": (b"\x01\x02\x03\x04\x05\x06\x07", "7 bytes is too short"),
    "header cut": (safetensors_bytes({"a": ONE}, FOUR)[:40], "should have 60 bytes, and 32 are there"),
    "data cut": (safetensors_bytes({"a": ONE}, b"123"), "truncated: its tensors need 4 bytes, and 3 are there"),
    "bytes left over": (safetensors_bytes({"a": ONE}, b"12345"), "1 bytes after its last tensor"),
    "header too large": ((MAX_HEADER + 1).to_bytes(8, "little") + b"{" + b" " * 20, "100 MB are allowed"),
    "noise": (bytes(range(128, 200)), "not a safetensors file: its first 8 bytes state a header of"),
    "not an object": (safetensors_bytes(b"[1, 2]"), "begins with b'[1, 2]'"),
    "leading space": (safetensors_bytes(b" {}"), "begins with b' {}'"),
    "not JSON": (safetensors_bytes(b'{"a": '), "the header is not JSON: Expecting value"),
    "two values": (safetensors_bytes(b"{} {}"), "the header is not JSON: Extra data"),
    "NaN": (safetensors_bytes(b'{"a": NaN}'), "the header is not JSON: NaN"),
    "not UTF-8": (safetensors_bytes(b'{"\xff": 1}'), "the header is not UTF-8 (byte 2)"),
    "half a surrogate": (safetensors_bytes(b'{"\\ud800": 1}'), "not Unicode text"),
    "half a surrogate in a text": (
        safetensors_bytes(
            b'{"__metadata__":{"a":"\\udcff"},"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', FOUR
        ),
        "a text that is not Unicode text: '\\udcff'",
    ),
    "nested": (safetensors_bytes(b'{"a":' * 200_000), "nested too deeply"),
    "long number": (safetensors_bytes(b'{"a":' + b"1" * 5000 + b"}"), "the header is not JSON: Exceeds the limit"),
    "duplicate name": (safetensors_bytes(_twice("a"), FOUR), "has the name 'a' twice"),
    "duplicate metadata": (safetensors_bytes(b'{"__metadata__":{},"__metadata__":{}}'), "'__metadata__' twice"),
    "duplicate field": (
        safetensors_bytes(b'{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}', FOUR),
        "has the name 'dtype' twice",
    ),
    "metadata of numbers": (safetensors_bytes({"__metadata__": {"epoch": 3}}), "'epoch' is a int"),
    "metadata a list": (safetensors_bytes({"__metadata__": ["x"]}), "is a list"),
    "one tensor without a name": (safetensors_bytes(ONE, FOUR), "is one tensor without a name"),
    "a tensor as the metadata": (
        safetensors_bytes({"__metadata__": ONE}, FOUR),
        "__metadata__ should map text to text",
    ),
    "a tensor as a shape": (safetensors_bytes({"a": {**ONE, "shape": ONE}}, FOUR), "should be a list of sizes"),
    "hole at the start": (safetensors_bytes({"a": entry("U8", [2], 2, 4)}, FOUR), "leaves a hole of 2 before it"),
    "hole between": (
        safetensors_bytes({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 3, 4)}, FOUR),
        "b: starts at byte 3 and leaves a hole of 2",
    ),
    "overlap": (
        safetensors_bytes({"a": entry("U8", [3], 0, 3), "b": entry("U8", [2], 2, 4)}, FOUR),
        "b: starts at byte 2, inside a, which ends at 3",
    ),
    "the same bytes twice": (safetensors_bytes({"a": ONE, "b": ONE}, FOUR), "b: starts at byte 0, inside a"),
    "out of range": (safetensors_bytes({"a": entry("U8", [99], 0, 99)}, FOUR), "need 99 bytes, and 4 are there"),
    "backwards": (safetensors_bytes({"a": entry("U8", [4], 4, 0)}, FOUR), "the header gives it -4"),
    "negative offset": (safetensors_bytes({"a": entry("U8", [4], -4, 0)}, FOUR), "should be two positions"),
    "one offset": (
        safetensors_bytes({"a": {"dtype": "U8", "shape": [4], "data_offsets": [4]}}, FOUR),
        "should be two positions, and is [4]",
    ),
    "unknown dtype": (safetensors_bytes({"a": entry("F128", [4], 0, 4)}, FOUR), "unknown dtype 'F128'"),
    "dtype a number": (safetensors_bytes({"a": entry(8, [4], 0, 4)}, FOUR), "unknown dtype 8"),  # type: ignore[arg-type]
    "wrong size": (safetensors_bytes({"a": entry("F32", [4], 0, 4)}, FOUR), "F32 [4] needs 16 bytes"),
    "half a byte": (safetensors_bytes({"a": entry("F4", [3], 0, 2)}, b"12"), "do not end at a whole byte"),
    "shape of floats": (
        safetensors_bytes(b'{"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}}', FOUR),
        "should be a list of sizes, and is [4.0]",
    ),
    "shape of booleans": (
        safetensors_bytes(b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', b"1"),
        "should be a list of sizes",
    ),
    "negative shape": (safetensors_bytes({"a": entry("U8", [-4], 0, 4)}, FOUR), "should be a list of sizes"),
    "shape too large": (safetensors_bytes({"a": entry("U8", [2**40, 2**40, 0], 0, 0)}), "larger than any memory"),
    "a field missing": (safetensors_bytes({"a": {"dtype": "U8", "shape": [4]}}, FOUR), "and gives 'dtype', 'shape'"),
    "a field too many": (safetensors_bytes({"a": {**ONE, "x": 1}}, FOUR), "'data_offsets', 'x'"),
    "tensor a number": (safetensors_bytes({"a": 1}, FOUR), "a: the header should give dtype"),
    "no tensors": (safetensors_bytes({"__metadata__": {"format": "pt"}}), "has no tensors"),
}
# What the format's library accepts and we do not, on purpose.
STRICTER = {"leading space", "duplicate name", "a field too many", "no tensors", "shape too large"}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    content, message = MALFORMED[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ContentError) as caught:
        open_checkpoint(path)
    assert message in caught.value.what
    assert str(path) in caught.value.where
    assert caught.value.remedy


@pytest.mark.parametrize("name", sorted(set(MALFORMED) - STRICTER))
def test_the_library_refuses_it_too(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(MALFORMED[name][0])
    with pytest.raises(SafetensorError), safe_open(path, "pt"):
        pass


def test_the_library_accepts_duplicate_names(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(MALFORMED["duplicate name"][0])
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["a"]


def test_tensors_come_in_the_order_of_their_data(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = {"b": entry("U8", [1], 1, 2), "e2": entry("U8", [0], 1, 1), "a": entry("U8", [1], 0, 1)}
    path.write_bytes(safetensors_bytes({"__metadata__": None, **header}, b"\x07\x08"))
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint) == ["a", "e2", "b"]
        assert checkpoint["b"].item() == 8
        assert checkpoint.metadata == {}


def test_a_header_is_laid_out_in_the_given_order_and_aligned() -> None:
    infos = {"z": TensorInfo("F64", (2,)), "a": TensorInfo("F32", ()), "é": TensorInfo("U8", (3, 1))}
    text, order = build_header(infos, {"k": "v"})
    assert order == ("z", "a", "é")
    assert len(text) % 8 == 0
    header = parse_header(text[8:], 16 + 4 + 3, "here")
    assert header.infos == infos
    assert header.metadata == {"k": "v"}


def test_metadata_may_be_named_like_the_fields_of_a_tensor() -> None:
    text = {"dtype": "F32", "shape": "[1]", "data_offsets": "none"}
    assert parse_header(safetensors_bytes({"__metadata__": text})[8:], 0, "here").metadata == text


def test_many_tensors_take_little_memory() -> None:
    count = 5_000
    header = {f"layers.{at}.weight": entry("F32", [1, 1], 4 * at, 4 * at + 4) for at in range(count)}
    text = json.dumps(header).encode()
    tracemalloc.start()
    try:
        parse_header(text, 4 * count, "here")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 500 * count


def test_larger_elements_come_first_if_order_misaligns_them(tmp_path: Path) -> None:
    infos = {"flag": TensorInfo("BOOL", ()), "w": TensorInfo("F32", (1,)), "v": TensorInfo("F32", (1,))}
    text, order = build_header(infos, {})
    assert order == ("w", "v", "flag")
    path = tmp_path / "model.safetensors"
    path.write_bytes(text + bytes(9))
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("v"), torch.zeros(1))
