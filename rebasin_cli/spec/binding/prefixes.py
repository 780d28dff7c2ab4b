"""Prefixes of a checkpoint's keys: wrappers of training frameworks, and prefixes that a spec lists."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from rebasin_cli.spec.language.permutation_spec import PermutationSpec

WRAPPERS = (
    "module.", "_orig_mod.", "model.", "base_model.model.", "base_model.", "network.", "net.", "student.", "teacher.",
    "ema.", "model_ema.", "backbone.", "encoder_q.", "state_dict.",
)  # fmt: skip
"""Prefixes that training frameworks add to every key (DDP, torch.compile, Lightning, PEFT, …)."""


_INSIDE = re.compile(r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
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


def without_wrappers(key: str) -> str:
    """A key without the wrappers in it: `features.module.0.weight` as `features.0.weight`."""
    return _INSIDE.sub("", key)


def prefix_candidates(spec: PermutationSpec, keys: Sequence[str], share: float = 1.0) -> list[Prefix]:
    """Prefixes worth trying, likeliest first; none under which two keys would become one.

    Args:
        share: of the keys that carry the wrapper, at least.
    """
    found: list[Prefix] = []
    keys = tuple(keys)
    for inside in (False, True) if _wrapped_inside(keys) else (False,):  # what keeps more of the keys comes first
        for wrapper in _wrappers(keys, share):
            found.append(Prefix(wrapper, "", inside))
            bare = found[-1].strip_all(keys) if spec.prefixes else []
            found += [Prefix(wrapper, own, inside) for own in spec.prefixes if any(k.startswith(own) for k in bare)]
    return [prefix for prefix in found if prefix == Prefix() or _keeps_apart(prefix, keys)]


@lru_cache(maxsize=64)  # the same for every spec, here and below
def _keeps_apart(prefix: Prefix, keys: tuple[str, ...]) -> bool:
    return len(set(prefix.strip_all(keys))) == len(keys)


@lru_cache(maxsize=4)
def _wrapped_inside(keys: tuple[str, ...]) -> bool:
    return any(_INSIDE.search(key) for key in keys)


@lru_cache(maxsize=4)
def _wrappers(keys: tuple[str, ...], share: float) -> tuple[str, ...]:
    """None, the known wrappers (nested in any order), and other prefixes that this share of the keys has."""
    if not keys:
        return ("",)
    counts = Counter(prefix for key in keys for prefix in beginnings(key))
    shared = [prefix for prefix, count in counts.items() if count >= share * len(keys)]
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


def beginnings(key: str) -> Iterator[str]:
    """`a.b.c` as `a.` and `a.b.`."""
    return accumulate(f"{word}." for word in key.split(".")[:-1])
