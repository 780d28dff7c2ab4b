"""Names and texts that want to act on whoever shows them, and what must not be left of them."""

from __future__ import annotations

import re
from unicodedata import category

FORGED = "error: forged\n  try:   rm -rf ~\n  where: forged\nwarning: forged"
HOSTILE = {
    "colour": "\x1b[31mred\x1b[0m", "title": "\x1b]0;owned\x07", "carriage return": "seen\rerror: forged",
    "bell": "a\x07b", "backspace": "a\b\b\bb", "tab": "a\tb", "nul": "a\0b", "CSI of C1": "a\x9b31mb",
    "next line": "a\x85error: forged", "delete": "a\x7fb", "overrides": "a\u202eb\u202c", "isolates": "a\u2066b\u2069",
    "marks": "a\u200e\u200f\u061cb", "separators": "a\u2028error: forged\u2029", "zero width": "a\u200b\u2060\ufeffb",
    "soft hyphen": "a\u00adb", "tags": "a\U000e0041\U000e007fb", "fillers": "a\u3164\u115fb",
    "line": f"x\n{FORGED}", "line in list": f"x\n  - {FORGED}", "rich": "[red]a[/]", "rich end": "[/]",
    "rich link": "[link=https://e.org]a[/link]", "emoji code": ":warning:", "html": "<script>alert(1)</script>",
    "attribute": "\" onload='alert(1)'", "entity": "&#27;&lt;b&gt;", "table": "a|b|c", "code": "`a` ``b``",
    "link": "[a](https://e.org) ![i](https://e.org)", "address": "https://e.org www.e.org", "mathtext": r"$\frac{a$",
    "format": "{0} %s {x}", "long": "x" * 4096, "long words": "word " * 1000, "many lines": "error: forged\n" * 100,
}  # fmt: skip
SURROGATES = {"surrogate": "a\ud800b", "byte of a path": "a\udcffb"}
"""Not possible in a file of UTF-8 text, but in arguments, paths, JSON and pickles."""

BENIGN = (
    "model.pt",
    "été",
    "中文",
    "Ελλ",
    "עברית",
    "عربي",
    "a b\u00a0c",
    "🙂",
    "❤\ufe0f",
    "λ → ∞",
    "e\u0301",
    "\ue0b0",
)

_FORGED = re.compile(r"^ {0,3}(?:error|warning|note|try|where): +forged", re.MULTILINE)
_INVISIBLE = re.compile("[\u115f\u3164]")


def assert_harmless(text: str, longest: int | None = None) -> None:
    """Nothing in the text acts on a terminal, hides or passes for a message; it is shorter than `longest`."""
    assert_inert(text)
    assert not _FORGED.search(text)
    assert longest is None or len(text) < longest


def assert_inert(text: str) -> None:
    """Nothing in the text acts on a terminal or hides."""
    acting = {character for character in text if category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}} - {"\n"}
    assert not acting
    assert not _INVISIBLE.search(text)
