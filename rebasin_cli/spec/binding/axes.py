"""An axis of one tensor as a tree of concrete parts: sums of sides and products, with the name of each size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leaf:
    """A single side: the symbol of its size, and the dim it carries if it is one (`still` and `inverse`: as
    of `DimName`).

    Sizes are numbers, or the symbols `dim:conv.3`, `size:head_dim`, or one of the leaf's own (`_`).
    """

    size: int | str
    dim: str | None = None
    still: bool = False
    inverse: bool = False

    def __str__(self) -> str:
        if self.dim is not None or isinstance(self.size, int):
            return str(self.dim or self.size)
        kind, _, name = self.size.partition(":")
        return f"_:{name}" if kind == "size" else "_"


@dataclass(frozen=True, slots=True)
class Times:
    """A row-major product of sums."""

    factors: tuple[Plus, ...]

    def __str__(self) -> str:
        return f"({' '.join(map(str, self.factors))})"


@dataclass(frozen=True, slots=True)
class Plus:
    """Segments one after the other."""

    segments: tuple[Leaf | Times, ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.segments))

    def leaves(self) -> Iterable[Leaf]:
        """Every leaf, in order."""
        for segment in self.segments:
            if isinstance(segment, Leaf):
                yield segment
            else:
                for factor in segment.factors:
                    yield from factor.leaves()
