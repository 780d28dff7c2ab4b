"""Examples for a loss: npz and npy, idx and gzip, safetensors, texts and images."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.checkpoints.building import entry, safetensors_bytes
from tests.torture.cases import NAMES, Case, of_bytes
from tests.torture.cases.pickles import archive

_SHAPES = (
    "()", "(40,)", "(40, 32)", "(40, 0)", "(0, 32)", "(-1, 32)", "(40, -32)", "(4611686018427387904, 4)",
    f"({'9' * 5000}, 1)", "(40, 32.0)",
    "(40, True)", "[40, 32]", "40", "None", "(" + "1, " * 40 + ")", "(" + "1, " * 3000 + ")", "(" * 300 + ")" * 300,
    "__import__('os').system('touch pwned')",
)  # fmt: skip
_DTYPES = (
    "<f4", "<f2", "<f8", ">f4", "|b1", "<c8", "<i8", "|O", "<U8", "|S4", "<M8[ns]", "<m8", "<f16", "|V4", "<f1000",
    "f4,f4", "[('a', '<f4')]",
    "x" * 5000, "", "O", "\x1b[31m", "<U999999999", "|S2147483647", "('<f4', (99999999,))",
    "{'names': ['a'], 'formats': ['|O']}",
)  # fmt: skip


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch pwned",)


def cases() -> Iterator[Case]:
    """All of them."""
    for at, data in enumerate(hostile_archives()):
        yield of_bytes(f"data/npz-{at}", "data", "x.npz", data)
    for at, data in enumerate(_safetensors()):
        yield of_bytes(f"data/safetensors-{at}", "data", "x.safetensors", data)
    for at, (images, labels) in enumerate(_idx()):
        yield Case(f"data/idx-{at}", "data", "x", _idx_folder(images, labels))
    for at, (name, data) in enumerate(_images()):
        yield Case(f"data/image-{at}", "images", "x", _image_folder(name, data))
    texts = (b"", b"x", b"\xff\xfe", b"\x00" * 100, b"a" * (1 << 20), "\u202ex\x1b[31m".encode(), bytes(range(256)))
    for at, data in enumerate(texts):
        for name in ("x.txt", "x.npy", "x.csv", "x"):
            yield of_bytes(f"data/text-{at}-{name}", "data", name, data)


def _npy(header: str, data: bytes = bytes(40 * 32 * 4), version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    size = struct.pack("<H" if version[:1] == b"\x01" else "<I", len(text) % (1 << 16))
    return b"\x93NUMPY" + version + size + text + data


def _header(dtype: str = "<f4", shape: str = "(40, 32)", order: str = "False") -> str:
    descr = dtype if dtype.startswith(("[", "(", "{")) else repr(dtype)
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def _honest() -> bytes:
    out = io.BytesIO()
    np.save(out, np.arange(40) % 16)
    return out.getvalue()


def hostile_archives() -> Iterator[bytes]:
    targets = _honest()
    arrays = [_npy(_header(shape=shape)) for shape in _SHAPES] + [_npy(_header(dtype=dtype)) for dtype in _DTYPES]
    arrays += [_npy(_header(order=order)) for order in ("None", "1", "'x'", "True")]
    arrays += [
        _npy(text)
        for text in (
            "",
            "{}",
            "{",
            "[]",
            "x",
            "{'descr': '<f4'}",
            "{**{}}",
            "(" * 60_000,
            "lambda: 0",
            "\ud800",
            "{'shape': " + "[" * 200,
        )
    ]
    arrays += [_npy(_header(), version=version) for version in (b"\x00\x00", b"\x02\x00", b"\x03\x00", b"\xff\xff")]
    arrays += [
        _npy(_header(), data)
        for data in (b"", b"x", bytes(40 * 32 * 4 - 1), bytes(40 * 32 * 4 + 1), b"\x00\x00\xc0\x7f" * 1280)
    ]
    arrays += [_npy(_header("|O"), pickle.dumps([_Evil()] * 2)), pickle.dumps(_Evil()), b"", b"\x93NUMPY"]
    for array in arrays:
        yield archive({"inputs.npy": array, "targets.npy": targets})
    for array in arrays[::3]:
        yield archive({"inputs.npy": _npy(_header()), "targets.npy": array})
    for values in ([-1] * 40, [99] * 40, [2**62] * 40, [16] * 40, [-100] * 40):
        out = io.BytesIO()
        np.save(out, np.array(values))
        yield archive({"inputs.npy": _npy(_header()), "targets.npy": out.getvalue()})
    for name in NAMES:
        if len(name) < 5000:
            yield archive({f"{name}.npy": targets, "inputs.npy": _npy(_header())})
            yield archive({f"inputs.{name}.npy": _npy(_header()), "targets.npy": targets})
    yield archive(
        {"inputs.npy": _npy(_header(shape="(16777216, 32)"), bytes(64 << 20)), "targets.npy": targets},
        zipfile.ZIP_DEFLATED,
    )
    yield archive({"inputs.npy": bytes(96 << 20), "targets.npy": targets}, zipfile.ZIP_DEFLATED)
    yield archive({"inputs.npy": _npy(_header()), "targets.npy": targets}, zipfile.ZIP_LZMA)
    whole = archive({"inputs.npy": _npy(_header()), "targets.npy": targets})
    for at in (10, 14, 18, 22, 26, 40, 100):
        yield whole[:at] + b"\xff\xff\xff\xff" + whole[at + 4 :]
    yield from (whole[:100], whole[:-1], b"", b"PK\x05\x06" + bytes(18), targets, whole[1:])


def _safetensors() -> Iterator[bytes]:
    size = 40 * 32 * 4
    targets = entry("I64", [40], size, size + 320)
    for dtype, shape in (
        ("F32", [40, 32]),
        ("I64", [40, 16]),
        ("BOOL", [40, 128]),
        ("F16", [40, 64]),
        ("F8_E5M2", [40, 128]),
        ("C64", [40, 16]),
        ("F32", [2**40]),
    ):
        yield safetensors_bytes({"inputs": entry(dtype, shape, 0, size), "targets": targets}, b"\xff" * (size + 320))
    for name in ("inputs.", "inputs.\x1b[31m", "input", "inputs.a.b", "inputs.\ud800"):
        yield safetensors_bytes({name: entry("F32", [40, 32], 0, size), "targets": targets}, bytes(size + 320))
    yield from (b"", b"x", safetensors_bytes(b"{}"), safetensors_bytes(b"["), (2**63).to_bytes(8, "little"))


def _idx() -> Iterator[tuple[bytes, bytes]]:
    images = b"\0\0\x08\x03" + struct.pack(">3I", 6, 4, 8) + bytes(192)
    labels = b"\0\0\x08\x01\0\0\0\x06" + bytes(6)
    for start in (
        b"",
        b"\0",
        b"\0\0\x08",
        b"\0\0\x07\x03",
        b"\0\0\x08\x00",
        b"\0\0\x08\xff",
        b"\0\1\x08\x03",
        b"\x1f\x8b\x08\0",
    ):
        yield start + images[len(start) :], labels
        yield images, start + labels[len(start) :]
    for axes in ((2**32 - 1,) * 3, (0, 4, 8), (6, 0, 8), (6, 4, 9), (5, 4, 8), (2**31, 2, 0)):
        yield b"\0\0\x08\x03" + struct.pack(">3I", *axes) + bytes(192), labels
    yield b"\0\0\x0d\x03" + struct.pack(">3I", 6, 4, 2) + b"\x7f\xc0\0\0" * 48, labels
    yield b"\0\0\x08\xff" + struct.pack(">255I", *(1,) * 255) + b"x", labels
    for packed in (
        gzip.compress(bytes(128 << 20), 1),
        gzip.compress(images)[:-1],
        gzip.compress(images)[:20],
        gzip.compress(images) * 2,
    ):
        yield packed, labels
    yield gzip.compress(images)[:-8] + bytes(8), labels
    yield b"\x1f\x8b\x08\x1f" + b"\xff" * 100, labels
    yield b"\x1f\x8b", labels


def _idx_folder(images: bytes, labels: bytes) -> object:
    def make(folder: Path) -> None:
        folder.mkdir()
        for name, data in (("t10k-images-idx3-ubyte", images), ("t10k-labels-idx1-ubyte", labels)):
            packed = ".gz" if data[:2] == b"\x1f\x8b" and len(data) != len(images[:4]) + 196 else ""
            (folder / (name + packed)).write_bytes(data)

    return make


def _png(width: int, height: int, data: bytes, depth: int = 8, kind: int = 0) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, kind, 0, 0, 0))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + head + text + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _images() -> Iterator[tuple[str, bytes]]:
    postscript = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 4\n%%EndComments\n(pwned) (w) file closefile\nshowpage\n%%EOF\n"
    )
    for name in ("x.png", "x.eps", "x.jpg", "x.ps"):
        yield name, postscript
    yield "x.png", b"\xc5\xd0\xd3\xc6" + struct.pack("<2I", 30, len(postscript)) + bytes(18) + postscript
    rows = zlib.compress(bytes(9 * 4))
    for width, height in (
        (8, 4),
        (0, 0),
        (30_000, 30_000),
        (12_000, 12_000),
        (2**31 - 1, 2**31 - 1),
        (2**32 - 1, 1),
        (1, 178_956_970),
    ):
        yield "x.png", _png(width, height, rows)
    yield "x.png", _png(10_000, 10_000, zlib.compress(bytes(10_001 * 10_000)))
    yield from (
        ("x.png", _png(8, 4, rows, depth, kind)) for depth, kind in ((16, 0), (1, 3), (8, 3), (8, 9), (0, 0), (16, 6))
    )
    whole = _png(8, 4, rows)
    yield from (
        ("x.png", data)
        for data in (
            b"",
            whole[:8],
            whole[:20],
            whole[:-12],
            whole[:40] + b"\xff" + whole[41:],
            b"<svg/>",
            b"\x00" * 1000,
        )
    )
    yield "x.gif", b"GIF89a" + b"\xff" * 7 + b"," + b"\0" * 8 + b"\x02"
    yield "x.bmp", b"BM" + b"\xff" * 52
    yield "x.tif", b"II*\0\x08\0\0\0" + b"\xff" * 200
    yield "x.webp", b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\xff" * 30
    yield "x.ico", b"\0\0\1\0\xff\xff" + b"\x01" * 100
    yield "x.fli", b"\xff\xff\xff\xff\x12\xaf" + b"\xff" * 200
    yield "x.ppm", b"P6 999999999 999999999 255\n"
    yield "x.xpm", b'/* XPM */\nstatic char * x[] = {\n"99999 99999 99999 9",\n'
    for name in ("\x1b[31m.png", "a\nerror: forged.png", "\u202egnp.png", "[b].png"):
        yield name, b"broken"


def _image_folder(name: str, data: bytes) -> object:
    def make(folder: Path) -> None:
        for each in ("cat", "dog"):
            (folder / each).mkdir(parents=True)
        (folder / "cat" / name).write_bytes(data)
        (folder / "dog" / "0.png").write_bytes(_png(8, 4, zlib.compress(bytes(36))))

    return make
