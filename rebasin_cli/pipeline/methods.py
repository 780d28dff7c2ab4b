"""Which matching method runs, and with what: one value from the command line down to the solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rebasin_cli.matching import MatchResult, match_weights
from rebasin_cli.matching.weights import OnStep, Order, Start
from rebasin_cli.pipeline.binding import Pair


@dataclass(frozen=True, slots=True)
class MatchChoice:
    """How to match; the fields are the options of the same names."""

    method: str = "weights"
    seed: int = 0
    max_sweeps: int = 100
    start: Start = "anchored"
    order: Order = "forward"
    device: str = "auto"


Method = Callable[[Pair, MatchChoice, str, OnStep], MatchResult]


def _weights(pair: Pair, choice: MatchChoice, device: str, on_step: OnStep) -> MatchResult:
    return match_weights(
        pair.layout, pair.a, pair.b, seed=choice.seed, max_sweeps=choice.max_sweeps, start=choice.start,
        order=choice.order, device=device, on_step=on_step,
    )  # fmt: skip


METHODS: Mapping[str, Method] = {"weights": _weights}
"""Every `--method`, by name: from the pair, the choice, a resolved device and a progress callback to a result."""
