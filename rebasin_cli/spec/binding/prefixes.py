"""Prefixes of keys: wrappers of training frameworks, and what a spec lists; and patterns of keys to ignore."""

from __future__ import annotations

import glob
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import accumulate
from math import ceil
from typing import Protocol

from rebasin_cli.errors import UsageError
from rebasin_cli.safe_text import printable, shell_word

WRAPPERS = (
    "module.", "_orig_mod.", "model.", "base_model.model.", "base_model.", "network.", "net.", "student.", "teacher.",
    "ema.", "model_ema.", "backbone.", "encoder_q.", "state_dict.",
)  # fmt: skip
"""Prefixes that training frameworks add to every key (DDP, torch.compile, Lightning, PEFT, …)."""


_INSIDE_WORDS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_INSIDE = re.compile(rf"(?<![^.])(?:{'|'.join(_INSIDE_WORDS)})\.")
"""Wrappers around a submodule: `features.module.0.weight`."""

MOST = 0.3
"""Least share of the keys that have the wrapper, if not all do. The rest are counters, weights of a loss, or a second
network (a momentum encoder has as many keys as the first, and its queue is one more)."""

_TRIED = 12  # wrappers that only some keys have


@dataclass(frozen=True, slots=True)
class Prefix:
    """A wrapper of the keys, then perhaps a prefix from the spec on some of them.

    Attributes:
        inside: whether wrappers within the keys are removed as well.
    """

    wrapper: str = ""
    own: str = ""
    inside: bool = False

    def __str__(self) -> str:
        return self.wrapper + self.own

    def strip(self, key: str) -> str:
        """The key as the spec's templates know it."""
        key = key.removeprefix(self.wrapper)
        return (without_wrappers(key) if self.inside else key).removeprefix(self.own)

    def strip_all(self, keys: Iterable[str]) -> list[str]:
        """`strip` of every key, at once: there may be 100,000."""
        wrapper, own = self.wrapper, self.own
        if self.inside:
            return [self.strip(key) for key in keys]
        return [key.removeprefix(wrapper).removeprefix(own) for key in keys] if wrapper or own else list(keys)


class WithPrefixes(Protocol):
    """A spec, or its outline."""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The prefixes that the spec lists."""


def without_wrappers(key: str) -> str:
    """A key without the wrappers in it: `features.module.0.weight` as `features.0.weight`."""
    return _INSIDE.sub("", key)


def prefix_candidates(spec: WithPrefixes, keys: Sequence[str], share: float = 1.0) -> list[Prefix]:
    """Prefixes worth trying, likeliest first; none under which two keys would become one.

    Args:
        share: of the keys that carry the wrapper, at least.
    """
    found: list[Prefix] = []
    keys = tuple(keys)
    for inside in (False, True) if _wrapped_inside(keys) else (False,):  # what keeps more of the keys comes first
        for wrapper in _wrappers(keys, share):
            found.append(Prefix(wrapper, "", inside))
            found += [p for own in spec.prefixes if _is_there(p := Prefix(wrapper, own, inside), keys)]
    return [prefix for prefix in found if prefix == Prefix() or _keeps_apart(prefix, keys)]


def _is_there(prefix: Prefix, keys: tuple[str, ...]) -> bool:
    """Whether a key begins with the prefix from the spec once wrappers are removed."""
    wrapper, own = prefix.wrapper, prefix.own
    if prefix.inside or wrapper.startswith(own):
        return any(key.startswith(own) for key in Prefix(wrapper, "", prefix.inside).strip_all(keys))
    ordered = _ordered(keys)
    either = (wrapper + own,) if own.startswith(wrapper) else (wrapper + own, own)
    return any(key.startswith(start) for start in either for key in _from(ordered, start))


def _from(ordered: Sequence[str], start: str) -> Sequence[str]:
    """The first key that begins with `start` or comes after it."""
    at = bisect_left(ordered, start)
    return ordered[at : at + 1]


@lru_cache(maxsize=4)
def _ordered(keys: tuple[str, ...]) -> list[str]:
    return sorted(keys)


@lru_cache(maxsize=64)  # the same for every spec, here and below
def _keeps_apart(prefix: Prefix, keys: tuple[str, ...]) -> bool:
    return len(set(prefix.strip_all(keys))) == len(keys)


@lru_cache(maxsize=4)
def _wrapped_inside(keys: tuple[str, ...]) -> bool:
    text = "\n".join(keys)
    return any(word in text for word in _INSIDE_WORDS) and any(_INSIDE.search(key) for key in keys)


@lru_cache(maxsize=4)
def _wrappers(keys: tuple[str, ...], share: float) -> tuple[str, ...]:
    """None, the known wrappers (nested in any order), and other prefixes that this share of the keys has."""
    if not keys:
        return ("",)
    least = max(1, ceil(share * len(keys)))
    ordered = _ordered(keys)
    # Keys with one beginning follow each other there, so that `least` of them take in one of these.
    found = dict.fromkeys(prefix for key in ordered[least - 1 :: least] for prefix in beginnings(key))
    counts = {prefix: count for prefix in found if (count := count_beginning(ordered, prefix)) >= least}
    shared = sorted(counts, key=lambda p: (next(at for at, key in enumerate(keys) if key.startswith(p)), len(p)))
    seen = {"": None}
    stack = [""]
    while stack:
        base = stack.pop(0)
        for wrapper in WRAPPERS:
            prefix = base + wrapper
            if prefix not in seen and prefix in shared:
                seen[prefix] = None
                stack.append(prefix)
    rest = sorted((p for p in shared if p not in seen), key=lambda p: -counts[p])
    return (*seen, *(rest if share == 1.0 else rest[:_TRIED]))


def count_beginning(ordered: Sequence[str], beginning: str) -> int:
    """How many of the keys, which are sorted, begin with this, which ends with a dot."""
    low = bisect_left(ordered, beginning)
    return bisect_left(ordered, f"{beginning[:-1]}/", low) - low  # the character after the dot


def beginnings(key: str) -> Iterator[str]:
    """`a.b.c` as `a.` and `a.b.`."""
    return accumulate(f"{word}." for word in key.split(".")[:-1])


_LONGEST = 2000  # characters of options that a message can take


def keys_matching(patterns: Sequence[str], keys: Iterable[str]) -> set[str]:
    """The keys that some pattern matches."""
    return {key for key in keys if any(fnmatchcase(key, pattern) for pattern in patterns)} if patterns else set()


def require_matches(patterns: Sequence[str], *sides: Collection[str]) -> None:
    """Check that every pattern matches a tensor, and that each checkpoint keeps some tensors.

    Raises:
        UsageError: a pattern that fits nothing, or patterns that leave nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(key, pattern) for keys in sides for key in keys):
            raise UsageError(f"--ignore {pattern} matches no tensor", remedy="`rebasin inspect` lists the tensors")
    for keys in sides:
        if keys and len(keys_matching(patterns, keys)) == len(keys):
            raise UsageError("--ignore leaves no tensor of the checkpoint", remedy="ignore fewer of them")


def patterns_for(keys: Sequence[str], all_keys: Iterable[str]) -> tuple[str, ...]:
    """Few patterns that match `keys` and no other key of `all_keys`, such as `encoder_k.*`."""
    if not keys:
        return ()
    wanted = set(keys)
    others = sorted(key for key in all_keys if key not in wanted)
    return tuple(dict.fromkeys(_pattern(key, others) for key in keys))


def options_for(patterns: Sequence[str]) -> str:
    """The patterns as options for a shell, or a placeholder if they are too long to show."""
    options = " ".join(f"--ignore {shell_word(pattern)}" for pattern in patterns)
    return options if options == printable(options, _LONGEST) else "--ignore PATTERN for each of them"


def _pattern(key: str, others: Sequence[str]) -> str:
    """A pattern for `key` that none of the `others`, which are sorted, matches."""
    free = next((beginning for beginning in beginnings(key) if not count_beginning(others, beginning)), None)
    return glob.escape(key) if free is None else f"{glob.escape(free)}*"
