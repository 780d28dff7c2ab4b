"""Hostile files, made by code: one module for each kind of file, each with `cases()`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Case:
    """One hostile file.

    Attributes:
        name: what reproduces it, such as `safetensors/length-3`.
        kind: which commands read it (`hostile.COMMANDS`).
        file: its name in the folder, where the stock lies as well.
        make: writes it.
    """

    name: str
    kind: str
    file: str
    make: Callable[[Path], object]


def of_bytes(name: str, kind: str, file: str, data: bytes) -> Case:
    """A case that is some bytes."""
    return Case(name, kind, file, lambda path: path.write_bytes(data))


def of_text(name: str, kind: str, file: str, text: str) -> Case:
    """A case that is a text; lone surrogates in it become bytes that are no UTF-8."""
    return of_bytes(name, kind, file, text.encode("utf-8", "surrogatepass"))


# What names and texts in files may try on a terminal, a page, a parser, or whoever reads a message.
NAMES = (
    "\x1b[31mred", "\x1b]0;title\x07", "\x9b31mred", "\x1b[2J\x1b[H", "a\nerror: forged", "a\r\nerror: forged",
    "a\rerror: forged", "a\u2028error: forged", "a\x85error: forged", "a\x0berror: forged", "a\x0cerror: forged",
    "\n  try:   rm -rf /", "\u202egnp.exe", "\u2066x\u2069", "\u200f\u200e", "\u061c", "\ufeffx",
    "\U000e0041\U000e0042",
    "[bold red]x[/]", "[/]", "[/bold]", "[link=file:///etc/passwd]x[/link]", "[@click=app.bell]x[/]", "[not a tag]",
    "\\[x",
    "<script>alert(1)</script>", "\"><script>alert(1)</script>", "'onload='alert(1)", "&lt;script&gt;",
    "</svg><script>alert(2)</script>",
    "a|b", "`x`", "![x](http://127.0.0.1/x.png)", "\x00", "\x08\x08\x08", "\x7f", "n" * 4000, "e" + "\u0301" * 1000,
    "\U0001f4a5" * 200,
    "../../pwned", "/pwned", "", " ", ".", "%s%n%x", "{i}", "{0}", "{a,b}" * 26, "$(touch pwned)", ";touch pwned;",
    "__class__",
    "\ud800", "\udcff", "fc.0.weight\x00", "fc.0.weight ", "fc.-1.weight", "fc." + "9" * 5000 + ".weight",
    "fc." + "0." * 2000 + "weight",
)  # fmt: skip

NUMBERS = (
    "-1", "0", "1e400", "-0.0", "NaN", "Infinity", "9" * 30, "9" * 5000, "1" + "0" * 400, "0.1", "1e-400", "true",
    "null", '"8"', "[]", "{}", "[8]", str(2**31), str(2**63), str(2**64), "-" + str(2**63), "1e308", "8.0",
)  # fmt: skip

JSONS = (
    b"", b" ", b"null", b"true", b"1", b'"x"', b"[]", b"{}", b"[[]]", b"{", b"}", b'{"a"', b'{"a":}',
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}", b"{}\x00", b"{}{}", b"[" * 200_000, b'{"a":' * 200_000, b"[" * 900 + b"]" * 900, b"9" * 5000,
    b"-" * 100,
    b'{"a":1,"a":2}', b'{"a":"\\ud800"}', b'{"a":"\\u0000"}', b'{"a":1e999999999}', b"/*x*/{}", b"{'a':1}",
    b"\x00" * 64,
    b'{"__class__":"os.system"}', b'"' + b"x" * (1 << 20) + b'"', b"[" + b"0," * 200_000 + b"0]", bytes(range(256)),
)  # fmt: skip
