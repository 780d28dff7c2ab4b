"""torch's files: programs that want something done, bombs, and archives that lie about their records."""

from __future__ import annotations

import io
import itertools
import struct
import zipfile
from collections.abc import Iterator

from tests.torture.cases import NAMES, Case, of_bytes

_TOUCH = b"X\x0b\x00\x00\x00touch pwned"
_MAKE = b"X\x15\x00\x00\x00open('pwned','w').x()"
_CALLS = (
    ("os", "system", _TOUCH), ("posix", "system", _TOUCH), ("os", "popen", _TOUCH),
    ("os", "mkdir", b"X\x05\x00\x00\x00pwned"),
    ("subprocess", "Popen", _TOUCH), ("subprocess", "getoutput", _TOUCH), ("builtins", "eval", _MAKE),
    ("builtins", "exec", _MAKE),
    ("__builtin__", "eval", _MAKE), ("builtins", "open", b"X\x05\x00\x00\x00pwnedX\x01\x00\x00\x00w"),
    ("builtins", "__import__", b"X\x04\x00\x00\x00this"),
    ("importlib", "import_module", b"X\x0b\x00\x00\x00antigravity"), ("runpy", "run_path", _TOUCH),
    ("pty", "spawn", _TOUCH),
    ("shutil", "rmtree", b"X\x01\x00\x00\x00."),
    ("socket", "create_connection", b"X\x09\x00\x00\x00127.0.0.1K\x50\x86"),
    ("urllib.request", "urlopen", b"X\x11\x00\x00\x00http://127.0.0.1/"), ("ctypes", "CDLL", _TOUCH),
    ("os", "_exit", b"K\x07"),
    ("os", "kill", b"K\x00K\x09"), ("time", "sleep", b"M\xff\xff"), ("torch", "load", _TOUCH),
    ("torch.hub", "load", _TOUCH),
    ("pickle", "loads", b"C\x1fcos\nsystem\n(X\x0b\x00\x00\x00touch pwnedtR."),
    ("functools", "partial", b"cos\nsystem\n" + _TOUCH),
    ("operator", "attrgetter", b"X\x06\x00\x00\x00system"), ("torch.storage", "_load_from_bytes", b"C\x04PK\x03\x04"),
    ("pathlib", "Path", b"X\x05\x00\x00\x00pwned"), ("code", "interact", b""), ("a\x1b[31m", "b\nerror", b""),
    ("", "", b""),
)  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    for at, program in enumerate(itertools.chain(_programs(), _bombs(), _states())):
        name = f"pickle/program-{at}"
        yield of_bytes(name, "checkpoint", "x.pt", archive({"m/data.pkl": program, "m/data/0": bytes(8)}))
        if at % 5 == 0:
            yield of_bytes(f"{name}-old", "checkpoint", "x.bin", _old(program))
    for at, data in enumerate(_archives()):
        yield of_bytes(f"pickle/archive-{at}", "checkpoint", "x.ckpt", data)


def archive(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these records."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, data in records.items():
            record = zipfile.ZipInfo("x")
            record.filename = name.encode("utf-8", "replace").decode() or " "  # as it is, with its zero bytes
            record.compress_type = compression
            file.writestr(record, data)
    return out.getvalue()


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def tensor(
    size: bytes = b"K\x02\x85", stride: bytes = b"K\x01\x85", offset: bytes = b"K\x00", numel: bytes = b"K\x02"
) -> bytes:
    """The opcodes of a float tensor in storage 0."""
    pid = _text("storage") + _global("torch", "FloatStorage") + _text("0") + _text("cpu") + numel
    hooks = _global("collections", "OrderedDict") + b")R"
    return (
        _global("torch._utils", "_rebuild_tensor_v2")
        + b"(("
        + pid
        + b"tQ"
        + offset
        + size
        + stride
        + b"\x89"
        + hooks
        + b"tR"
    )


def _state(value: bytes, name: str = "fc.0.bias") -> bytes:
    return b"\x80\x02}(" + _text(name) + tensor() + _text("x") + value + b"u."


def _programs() -> Iterator[bytes]:
    for module, name, args in _CALLS:
        found = _global(module, name)
        yield _state(found + b"(" + args + b"tR")
        yield _state(_text(module) + _text(name) + b"\x93(" + args + b"tR")
        yield _state(b"(" + args + f"i{module}\n{name}\n".encode())
        yield _state(found + b")R}" + _text("__setstate__") + found + b"sb")
        yield b"\x80\x02" + found + b"(" + args + b"tR."


def _bombs() -> Iterator[bytes]:
    yield b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b"."
    yield b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    yield b"\x80\x02" + b"}" * 100 + b"."
    yield (
        b"\x80\x02]q\x00"
        + b"".join(b"(h" + bytes([n]) * 1 + (b"h" + bytes([n])) * 9 + b"lq" + bytes([n + 1]) for n in range(60))
        + b"."
    )
    yield b"\x80\x02]q\x00h\x00a."  # a list in itself
    yield b"\x80\x02}q\x00X\x01\x00\x00\x00xh\x00s."
    yield b"\x80\x02K\x01" + b"\x85" * 100_000 + b"."
    yield b"\x80\x02" + b"2" * 100 + b"."
    yield b"\x80\x02N" + b"2" * 300_000 + b"."
    yield b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x01" * 64 + b"."
    yield b"\x80\x02\x8b\x00\x00\x10\x00" + b"\x7f" * (1 << 20) + b"."
    yield b"\x80\x02I" + b"9" * 100_000 + b"\n."
    yield b"\x80\x02F" + b"9" * 100_000 + b"\n."
    yield b"\x80\x02L" + b"9" * 100_000 + b"L\n."
    yield b"\x80\x05\x8e" + struct.pack("<Q", 2**63) + b"x."
    yield b"\x80\x05\x8d" + struct.pack("<Q", 2**40) + b"x."
    yield b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"."
    yield b"\x80\x02T" + struct.pack("<i", -1) + b"."
    yield b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"."
    yield b"\x80\x02r" + struct.pack("<I", 2**32 - 1) + b"."
    yield b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b"."
    yield b"\x80\x02j" + struct.pack("<I", 2**32 - 1) + b"."
    yield b"\x80\x02p-1\n."
    yield b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N."
    for opcode in range(256):
        if opcode % 4 == 0:
            yield b"\x80\x02" + bytes([opcode]) * 7 + b"."


def _states() -> Iterator[bytes]:
    for name in NAMES:
        yield _state(b"K\x01", name)
        yield _state(_text(name), "fc.0.weight")
    big = b"\x8a\x08" + struct.pack("<q", 2**62)
    minus = b"J" + struct.pack("<i", -1)
    for size, stride, offset, numel in (
        (big + b"\x85", b"K\x01\x85", b"K\x00", b"K\x02"), (b"K\x02\x85", big + b"\x85", b"K\x00", b"K\x02"),
        (b"K\x02\x85", b"K\x01\x85", big, b"K\x02"), (b"K\x02\x85", b"K\x01\x85", minus, b"K\x02"),
        (minus + b"\x85", b"K\x01\x85", b"K\x00", b"K\x02"),
        (b"K\x02\x85", minus + b"\x85", b"K\x01", b"K\x02"), (b"K\x02\x85", b"K\x01\x85", b"K\x00", big),
        (b"K\x02\x85", b"K\x01\x85", b"K\x00", minus),
        (big + b"\x85", b"K\x00\x85", b"K\x00", b"K\x02"), (big + big + b"\x86", b"K\x00K\x00\x86", b"K\x00", b"K\x02"),
        (b"J\x00\x00\x00\x40\x85", b"K\x00\x85", b"K\x00", b"K\x02"), (b")", b")", b"K\x02", b"K\x02"),
        (b"N", b"N", b"N", b"N"),
        (_text("2"), b"K\x01\x85", b"K\x00", b"K\x02"), (b"K\x02\x85", b")", b"K\x00", b"K\x02"),
        (b"(" + b"K\x01" * 2000 + b"t", b"(" + b"K\x01" * 2000 + b"t", b"K\x00", b"K\x02"),
    ):  # fmt: skip
        yield b"\x80\x02}" + _text("fc.0.bias") + tensor(size, stride, offset, numel) + b"s."
    yield b"\x80\x02}(" + b"".join(_text(f"t.{at}") + tensor() for at in range(3_000)) + b"u."
    yield b"\x80\x02}(K\x01" + tensor() + b"N" + tensor() + b"u."
    for value in (b"N.", b"].", b"}.", b").", b"K\x01.", tensor() + b".", b"(K\x01K\x02d.", b"", b".", b"0.", b"}("):
        yield b"\x80\x02" + value


def _old(program: bytes) -> bytes:
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    return magic + program + b"\x80\x02]" + _text("0") + b"a." + struct.pack("<q", 2) + bytes(8)


def _archives() -> Iterator[bytes]:
    sound = {"m/data.pkl": _state(b"K\x01"), "m/data/0": bytes(8)}
    yield archive(sound, zipfile.ZIP_DEFLATED)
    yield archive({"m/data.pkl": b"\x00" * (64 << 20), "m/data/0": bytes(8)}, zipfile.ZIP_DEFLATED)
    yield archive({**sound, "m/data/0": bytes(64 << 20)}, zipfile.ZIP_DEFLATED)
    yield archive({**sound, "m/data/0": b""})
    yield archive({"m/data.pkl": sound["m/data.pkl"]})
    yield archive({"data.pkl": sound["m/data.pkl"], "data/0": bytes(8)})
    yield archive({**sound, "m/constants.pkl": b"\x80\x02."})
    yield archive({**sound, "m/byteorder": b"middle"})
    yield archive({**sound, "m/byteorder": b"big"})
    yield archive({**sound, "m/version": b"9" * 5000})
    for name in (
        "../../pwned",
        "/pwned",
        "m/../../pwned",
        "C:\\pwned",
        "m/data/\x1b[31m\nerror: forged",
        "\x1b[31m/data.pkl",
        "m/",
    ):
        yield archive({name: bytes(8), **sound})
        yield archive({**sound, name: bytes(8)})
    yield archive({**sound, **{f"m/data/{at}": b"" for at in range(1, 60_000)}})
    whole = archive(sound)
    for field, value in (
        (14, b"\xff" * 4),
        (18, b"\xff" * 4),
        (22, b"\xff" * 4),
        (26, b"\xff\xff"),
        (28, b"\xff\xff"),
        (6, b"\xff\xff"),
        (8, b"\x63\x00"),
    ):
        for start in (0, whole.index(b"PK\x01\x02")):
            at = start + field + (2 if start and field >= 6 else 0)
            yield whole[:at] + value + whole[at + len(value) :]
    central = whole.index(b"PK\x01\x02")
    for value in (0, 1, len(whole), 2**31, 2**32 - 1):
        yield whole[: central + 42] + struct.pack("<I", value) + whole[central + 46 :]
    end = whole.index(b"PK\x05\x06")
    for field, value in (
        (8, b"\xff\xff"),
        (10, b"\xff\xff"),
        (12, b"\xff" * 4),
        (16, b"\xff" * 4),
        (16, b"\0" * 4),
        (20, b"\xff\xff"),
        (4, b"\x01\x00"),
    ):
        yield whole[: end + field] + value + whole[end + field + len(value) :]
    for cut in (4, 30, 60, central, central + 20, end, end + 10, len(whole) - 1):
        yield whole[:cut]
    link = zipfile.ZipInfo("m/data/0")
    link.external_attr = 0o120777 << 16  # a symbolic link
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("m/data.pkl", sound["m/data.pkl"])
        file.writestr(link, b"../../../etc/passwd")
    yield out.getvalue()
