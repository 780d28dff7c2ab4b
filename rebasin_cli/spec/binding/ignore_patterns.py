"""`--ignore`: which tensors its patterns match, and patterns that match given tensors and no others."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from rebasin_cli.errors import UsageError
from rebasin_cli.safe_text import printable, shell_word
from rebasin_cli.spec.binding.prefixes import beginnings, count_beginning

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
