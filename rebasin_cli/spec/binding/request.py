"""What a user says about a spec, and what the other network says: the input of a binding besides spec and shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """What is said beside the checkpoint: config.json, `--set`, `--freeze`, `--ignore`.

    Attributes:
        apart: keys without a counterpart in the other network; they are left out of the match as ignored ones are.
        still: dim → why it stays at identity, beside those that the spec and the user keep there.
    """

    config: Mapping[str, Any] | None = None
    overrides: Mapping[str, int] | None = None
    freeze: Sequence[str] = ()
    ignore: Sequence[str] = ()
    apart: Collection[str] = ()
    still: Mapping[str, str] = field(default_factory=dict)
