"""“Did you mean …?”: known words that are similar to an unknown one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

MOST_NAMED = 3
"""Names in a question."""

_LEAST = 3  # letters of a word that others are searched for


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question naming the nearest known words, or an empty string."""
    return question(nearest(word, known))


def question(names: Sequence[str]) -> str:
    """Whether one of these is meant; empty if there are none."""
    quoted = [f"`{name}`" for name in names]
    listed = ", ".join(quoted[:-1]) + f" or {quoted[-1]}" if len(quoted) > 1 else "".join(quoted)
    return f"did you mean {listed}?" if quoted else ""


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The known words that an unknown one most likely means, three at most; signs and capitals do not count.

    A prefix or a part of known words means those: `resnet` is `resnet-basic`, not `regnet`. So does one with a number
    of its own behind it: `resnet50`, `llama3`.
    """
    names: dict[str, list[str]] = {}
    for name in dict.fromkeys(known):
        names.setdefault(_plain(name), []).append(name)
    low = _plain(word)
    stem = low.rstrip("0123456789")
    found = (
        [plain for plain in names if plain == low]
        or [plain for plain in names if len(low) >= _LEAST and plain.startswith(low)]
        or get_close_matches(low, names, n=MOST_NAMED, cutoff=0.8)
        or [plain for plain in names if len(low) >= _LEAST and low in plain]
        or [plain for plain in names if stem != low and len(stem) >= _LEAST and plain.startswith(stem)]
        or get_close_matches(low, names, n=MOST_NAMED, cutoff=0.6)
    )
    meant = [name for plain in found for name in names[plain]][:MOST_NAMED]
    return meant or get_close_matches(word, [name for same in names.values() for name in same], n=MOST_NAMED)


def _plain(word: str) -> str:
    return "".join(filter(str.isalnum, word)).lower()
