"""All columns of what a block is solved by, in parts that can be asked for by their number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from rebasin_cli.matching.chunks import CACHED, chunk, cuts
from rebasin_cli.matching.plans import Plan

LEAST = 256
"""Columns of a part at least, so that each product is worth its pass over n² sums."""

Read = Callable[[Plan], tuple[Tensor, Tensor]]


@dataclass(slots=True)
class Parts:
    """The operands of some plans, part by part; what was read last is at hand.

    Attributes:
        plans: all over the same dim.
        permutation: of the other dims.
        read: gives A's and B's operand of a plan, (n, places, rest) each, B's not gathered.
        dtype: of the parts.
    """

    plans: Sequence[Plan]
    permutation: Mapping[str, Tensor]
    read: Read
    dtype: torch.dtype
    _parts: list[tuple[Plan, slice]] = field(default_factory=list)
    _last: tuple[Plan, Tensor, Tensor, Tensor | None] | None = None

    @property
    def columns(self) -> list[int]:
        """How many columns each part has."""
        return [(cut.stop - cut.start) * (_rest(plan) if plan.others else 1) for plan, cut in self._parts]

    def probe(self) -> tuple[Tensor, Tensor]:
        """A few columns of the first plan."""
        return self._chunk(self.plans[0], _cuts(self.plans[0], LEAST)[0])

    def cut(self, columns: int) -> None:
        """Settle the parts, of about so many columns, but not too few, nor more than fit a cache."""
        self._parts = [(plan, cut) for plan in self.plans for cut in _cuts(plan, max(columns, LEAST))]

    def __call__(self, part: int) -> tuple[Tensor, Tensor]:
        """A's and B's columns, (n, columns of the part) each."""
        return self._chunk(*self._parts[part])

    def _chunk(self, plan: Plan, cut: slice) -> tuple[Tensor, Tensor]:
        if self._last is None or self._last[0] is not plan:
            self._last = None  # before the next ones are read
            x, y = self.read(plan)
            to = plan.places(self.permutation)
            self._last = (plan, x, y, None if to is None else to.to(y.device))
        _, x, y, to = self._last
        return chunk(x, y, None, to, self.dtype, cut)


def _cuts(plan: Plan, columns: int) -> list[slice]:
    rest = _rest(plan)
    columns = min(columns, max(CACHED // plan.size, LEAST))
    return cuts(plan.size, plan.work // rest, rest, columns, whole=bool(plan.others))


def _rest(plan: Plan) -> int:
    """Columns that each place has."""
    return plan.work // prod(side.size for side in plan.frame.sides)
