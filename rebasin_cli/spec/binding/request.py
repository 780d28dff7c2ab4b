"""The input of a binding besides spec and shapes: the user's options, and what the other network needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """The options of a binding: config.json, `--set`, `--freeze`, `--ignore`.

    Attributes:
        apart: keys without a counterpart in the other network; they are not matched, as ignored ones are not.
        still: further dims that stay at identity, and why.
        signs: whether units of dims that the spec gives signs may have them turned.
    """

    config: Mapping[str, Any] | None = None
    overrides: Mapping[str, int] | None = None
    freeze: Sequence[str] = ()
    ignore: Sequence[str] = ()
    apart: Collection[str] = ()
    still: Mapping[str, str] = field(default_factory=dict)
    signs: bool = False
