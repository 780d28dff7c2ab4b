"""What stands in front of a checkpoint's keys: wrappers of training frameworks, and prefixes that a spec lists."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rebasin_cli.spec.language import PermutationSpec

WRAPPERS = (
    "module.", "_orig_mod.", "model.", "base_model.model.", "base_model.", "network.", "net.", "student.", "teacher.",
    "ema.", "model_ema.", "backbone.", "encoder_q.", "state_dict.",
)  # fmt: skip
"""Prefixes that training frameworks put in front of every key (DDP, torch.compile, Lightning, PEFT, …)."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A wrapper in front of every key, then perhaps a prefix of the spec's in front of some of them."""

    wrapper: str = ""
    own: str = ""

    def __str__(self) -> str:
        return self.wrapper + self.own

    def strip(self, key: str) -> str:
        """The key as the spec's templates know it."""
        return key.removeprefix(self.wrapper).removeprefix(self.own)


def prefix_candidates(spec: PermutationSpec, keys: Sequence[str]) -> list[Prefix]:
    """Prefixes worth trying, likeliest first; none under which two keys would become one."""
    found: list[Prefix] = []
    for wrapper in _wrappers(keys):
        found.append(Prefix(wrapper))
        found += [Prefix(wrapper, own) for own in spec.prefixes if any(k.startswith(wrapper + own) for k in keys)]
    return [p for p in found if not str(p) or len({p.strip(key) for key in keys}) == len(keys)]


def _wrappers(keys: Sequence[str]) -> Iterator[str]:
    """None, the known ones (nested in any order), and whatever else all keys share."""
    yield ""
    if not keys:
        return
    seen = {""}
    stack = [""]
    while stack:
        base = stack.pop(0)
        for wrapper in WRAPPERS:
            prefix = base + wrapper
            if prefix not in seen and all(key.startswith(prefix) for key in keys):
                seen.add(prefix)
                yield prefix
                stack.append(prefix)
    words = os.path.commonprefix(list(keys)).split(".")[:-1]
    for end in range(1, len(words) + 1):
        prefix = ".".join(words[:end]) + "."
        if prefix not in seen:
            yield prefix
