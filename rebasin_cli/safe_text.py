"""Text from files, paths, arguments and other programs, as it may be shown to people.

A terminal acts on control characters, and a reader is misled by characters that show nothing or that turn the direction
of writing. Whatever writes for people (errors, notes, tables, pages, plots) takes its text through this module, once,
where it is written. Documents in JSON keep the text itself, in JSON's own escapes.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from textwrap import wrap
from unicodedata import category

LONGEST = 4000
"""Characters of one part of a message, or of one cell of a table."""

LONGEST_NAME = 120
"""Characters of a name that is cut."""

_MOST_LINES = 60  # of one part of a message
_NARROWEST = 20  # columns for words
_COMMAND = re.compile(r"`[^`\n]*`")
_HARD_SPACE = "\x00"  # stands for a space that is not to be broken at: what is printable has no such character
_ASCII = {
    "λ": "lambda", "π": "pi", "‖": "|", "⟨": "<", "⟩": ">", "−": "-", "→": "->", "–": "-", "×": "x", "…": "...",
}  # fmt: skip
_RUN = re.compile(r"[^\s/]{256,}")  # file systems allow 255 bytes in a name, so that paths are never cut here
_UNUSUAL = re.compile(r"[^ -~\n]")
_ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, format characters, lone surrogates, separators of lines
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2065\u3164\uffa0")
_INVISIBLE_RANGES = (range(0xFFF0, 0xFFF9), range(0xE0000, 0xE1000))


def printable(text: str, longest: int = LONGEST) -> str:
    r"""The text with escapes (`\x1b`, `\u202e`) for characters that act or do not show, cut to `longest` characters.

    Line breaks (`\n`) stay. Letters, signs and emoji of every script stay, and so do variation selectors.
    """
    text = _escaped(shortened(text, longest).replace("\n\t", "\n    "), _visible)
    return shortened(_RUN.sub(lambda run: shortened(run[0], LONGEST_NAME), text), longest)


def first_names(names: Collection[str], most: int, rest: str = ", …") -> str:
    """The first names, with commas; `rest` follows if there are more, with their number for `{}`."""
    left = len(names) - most
    return ", ".join(islice(names, most)) + (rest.format(left) if left > 0 else "")


def listed(names: Sequence[str], noun: str) -> str:
    """`3 tensors (a, b, c)`."""
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({first_names(names, 5)})"


def one_line(text: str, longest: int = LONGEST) -> str:
    r"""As `printable`, with `\n` for a line break."""
    return shortened(printable(text, longest).replace("\n", "\\n"), longest)


def block(text: str) -> str:
    """As `printable`, with every line but the first indented, so that none of them looks like a message of its own.

    Items of a list (`  - `) stay where they are; all others begin in the fifth column or further to the right.
    """
    first, *others = printable(text).split("\n")
    if len(others) >= _MOST_LINES:
        others = [*others[: _MOST_LINES // 2], "…", *others[-_MOST_LINES // 2 :]]
    return "\n".join([first, *map(_indented, others)])


def shortened(text: str, longest: int) -> str:
    """The beginning and the end of a text that is too long, with `…` between them."""
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 1]}…{text[-end:]}"


def wrapped(text: str, columns: int) -> list[str]:
    """One line as lines of `columns` at most; words and commands between backticks stay whole, to be copied."""
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", _HARD_SPACE), text)
    lines = wrap(whole, max(_NARROWEST, columns), break_long_words=False, break_on_hyphens=False)
    return [line.replace(_HARD_SPACE, " ") for line in lines] or [""]


def in_ascii(text: str) -> str:
    """The text with signs of ours spelled in ASCII, for a terminal that shows nothing else; others stay."""
    for sign, word in _ASCII.items():
        text = text.replace(sign, word)
    return text


def shell_word(text: str) -> str:
    r"""The text as one word of a command that a user can copy: `'my model.pt'`, or `$'a\033b'` for an escape in it."""
    if "\n" not in text and text == _escaped(text, _visible):
        return shlex.quote(text)
    plain = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{_escaped(plain, _octal)}'".replace("\n", "\\012")


def escaped_json(document: str) -> str:
    """JSON text of the same value, with JSON's escapes for characters that act or do not show."""
    if document.isascii() and "\x7f" not in document:  # of megabytes, which JSON has escaped already
        return document
    return _escaped(document, _json_escape)


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    return _UNUSUAL.sub(lambda found: escape(found[0]) if _acts(found[0]) else found[0], text)


def _acts(character: str) -> bool:
    return (
        category(character) in _ACTING
        or character in _INVISIBLE
        or any(ord(character) in some for some in _INVISIBLE_RANGES)
    )


def _visible(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _octal(character: str) -> str:
    """Bytes of a file's name that are no UTF-8 come as surrogates, and go back as the bytes that they were."""
    try:
        data = character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = character.encode("utf-8", "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in data)


def _json_escape(character: str) -> str:
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


def _indented(line: str) -> str:
    return line if line.startswith(("  - ", "    ")) or not line.strip() else f"    {line.strip()}"
