"""Networks that choose among their units: experts, entries of a codebook, classes of a latent variable.

A choice among equal values says nothing, and where all units are alike all values are. So what a network chooses among
is told apart before anything else is looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

import numpy as np

from rebasin_cli.derivation.colouring import AxisOf, Colouring, MismatchError
from rebasin_cli.derivation.refinement import Refiner
from rebasin_cli.errors import ContentError

_CERTAIN = 1  # more rounds
_QUIET = 4  # rounds
_MOST = 12  # axes of which each is left out on trial


def chosen(refiner: Refiner, colouring: Colouring, lengths: Collection[int]) -> tuple[Colouring, Mapping[AxisOf, int]]:
    """The first colours of a network that chooses, and the axes that were told apart: among how many it chooses there.

    Args:
        lengths: of the axes along which equal values were sorted or chosen.

    Raises:
        ContentError: it chooses among equal values whatever is told apart.
    """
    refiner.quiet = _QUIET
    firsts = {(name, at): len(c) for (name, at), c in colouring.items() if at == 0 and (name, 2) not in colouring}
    for several in (False, True):  # choices on one axis
        routed = {
            axis: max(n for n in lengths if count % n == 0)
            for axis, count in firsts.items()
            if any(count % n == 0 if several else count == n for n in lengths)
        }
        found = _apart(refiner, colouring, routed)
        for axis in [*routed] if several and found and len(routed) <= _MOST else ():
            fewer = {other: n for other, n in routed.items() if other != axis}
            less = _apart(refiner, colouring, fewer)
            routed, found = (fewer, less) if less else (routed, found)
        if found:
            return found, routed
    raise ContentError(
        "the network chooses (argmax, sort, top-k) among values that are equal where its weights are",
        where=f"of {', '.join(map(str, sorted(lengths)))} values at once",
        remedy="let its forward return what it chooses by, or write the spec by hand: architectures/README.md",
    )


def _apart(refiner: Refiner, colouring: Colouring, routed: Collection[AxisOf]) -> Colouring | None:
    """The colours with some axes told apart; None where there is a choice among equal values still."""
    generic = {axis: np.arange(len(c)) if axis in routed else c for axis, c in colouring.items()}
    with suppress(MismatchError):
        return refiner.refine([generic], _CERTAIN)[0]
    return None
