"""What one network is worth on some examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers of about one confidence, which is the probability of the likeliest class.

    Attributes:
        count: how many; confidence: their mean; accuracy: the fraction of them that is right.
    """

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured of one network.

    Attributes:
        loss: lower is better; nats per example (per token of a language model) where it is a cross-entropy.
        accuracy: fraction right, 0 to 1; NaN if it was not measured.
        metrics: whatever else was, by name.
        reliability: the answers by their confidence, ascending; empty if it was not measured.
    """

    loss: float
    accuracy: float = math.nan
    metrics: Mapping[str, float] = field(default_factory=dict)
    reliability: tuple[Bin, ...] = ()
