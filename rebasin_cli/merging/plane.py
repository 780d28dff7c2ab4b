"""The plane through three networks: A, B as it is, and π(B) (Figure 1 of Git Re-Basin, arXiv:2209.04836).

Coordinates are Euclidean distances between weights, after Garipov et al. (arXiv:1802.10026): A is the origin, π(B) lies
on the x axis, and B above or below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.spec import Layout

_FLAT = 1e-6
"""A triangle lower than this, relative to its longest side, is a line: nothing says where above it a point is."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A triangle: A at (0, 0), π(B) at (`aligned`, 0), B at `b`."""

    aligned: float
    b: tuple[float, float]

    @staticmethod
    def of(a_to_b: float, a_to_aligned: float, b_to_aligned: float) -> Plane:
        """The triangle with these sides.

        Raises:
            ContentError: it has no area, so that the three networks lie on a line.
        """
        longest = max(a_to_b, a_to_aligned, b_to_aligned)
        x = height = 0.0
        if a_to_aligned > _FLAT * longest:
            x = (a_to_b**2 + a_to_aligned**2 - b_to_aligned**2) / (2 * a_to_aligned)
            height = sqrt(max(0.0, a_to_b**2 - x * x))
        if height <= _FLAT * longest:
            raise ContentError(
                "A, B and B aligned lie on one line: no plane goes through them",
                remedy="`rebasin interpolate` measures the line; B may be A with its units in another order, or in A's "
                "order already",
            )
        return Plane(a_to_aligned, (x, height))

    def shares(self, x: float, y: float) -> tuple[float, float]:
        """The weights on B and on π(B) at a point; A has the rest of 1. Outside of the triangle one is negative."""
        on_b = y / self.b[1]
        return on_b, (x - on_b * self.b[0]) / self.aligned

    def axes(self, steps: int, margin: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """x and y of a grid of `steps` × `steps` points around the triangle.

        Args:
            margin: what is added on each side, as a fraction of the longer side of the triangle's bounding box.
        """
        corners = (0.0, 0.0), (self.aligned, 0.0), self.b
        spans = [(min(values), max(values)) for values in zip(*corners, strict=True)]
        more = margin * max(high - low for low, high in spans)
        axes = [tuple(_evenly(low - more, high + more, steps)) for low, high in spans]
        return axes[0], axes[1]


def _evenly(first: float, last: float, steps: int) -> Iterator[float]:
    for k in range(steps):
        yield first + (last - first) * k / (steps - 1)


class InPlane(Mapping[str, Tensor]):
    """A lazy checkpoint at A + s·(B − A) + t·(π(B) − A): each access reads three tensors and mixes them.

    The arithmetic is in float32, in float64 where A's tensor is; the result has A's dtype. Integers, bools and tensors
    that are left out of the match are A's.

    Args:
        moved: π(B), under the same keys.
        shares: s and t.
    """

    def __init__(
        self, layout: Layout, a: Mapping[str, Tensor], b: Mapping[str, Tensor], moved: Mapping[str, Tensor],
        shares: tuple[float, float],
    ) -> None:  # fmt: skip
        self._layout, self._a, self._others, self._shares = layout, a, (b, moved), shares

    def __getitem__(self, key: str) -> Tensor:
        a = self._a[key]
        mixable = a.is_floating_point() or a.is_complex()
        if self._layout.tensors[key].section == "ignored" or not mixable:
            return a
        first = a.to(torch.promote_types(a.dtype, torch.float32))
        mixed = first
        for share, other in zip(self._shares, self._others, strict=True):
            if share:
                mixed = mixed + share * (other[key].to(device=first.device, dtype=first.dtype) - first)
        return mixed.to(a.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._a)

    def __len__(self) -> int:
        return len(self._a)
