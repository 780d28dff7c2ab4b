"""What comes out of a claim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.paper.lab import Lab

SHOWN, LIMITED, NOT_SHOWN, REFUTED = "shown", "shown with limits", "not shown", "refuted"


@dataclass(frozen=True)
class Outcome:
    """Figures in words, the verdict by the claim's rule, and pictures.

    Attributes:
        pictures: caption and SVG.
    """

    figures: str
    verdict: str
    pictures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        paper: its figure there; rule: by which the verdict is given.
    """

    number: int
    where: str
    says: str
    paper: str
    rule: str
    run: Callable[[Lab], Outcome] = field(repr=False)


def verdict(shown: bool, limited: bool = False) -> str:
    """Shown, shown with limits, or not shown."""
    return SHOWN if shown else LIMITED if limited else NOT_SHOWN
