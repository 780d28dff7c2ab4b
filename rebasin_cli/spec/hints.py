"""“Did you mean …?”: known words that are similar to an unknown one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_NAMED = 3  # names in a question, at most


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question naming the nearest known words, or an empty string.

    A prefix or a part of known words most likely means those: `resnet` means `resnet-basic`, not `regnet`.
    """
    names = list(dict.fromkeys(known))
    low = word.lower()
    found = [name for name in names if name.lower() == low]
    found = found or [name for name in names if len(low) > 2 and name.lower().startswith(low)]
    found = found or get_close_matches(word, names, n=1, cutoff=0.8)
    found = found or [name for name in names if len(low) > 2 and low in name.lower()]
    found = found or get_close_matches(word, names, n=1, cutoff=0.6)
    quoted = [f"`{name}`" for name in found[:_NAMED]]
    return f"did you mean {' or '.join(quoted)}?" if quoted else ""
