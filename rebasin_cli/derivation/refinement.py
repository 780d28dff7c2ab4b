"""Refining colourings until nothing splits: each round tells apart the indices whose gradients differ by more than
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from rebasin_cli.derivation.colouring import AxisOf, Colouring, Colours, MismatchError, count
from rebasin_cli.derivation.passes import Network, Signatures

_ROUNDINGS = 30
"""So many times what a jitter of the weights changes is rounding."""

_OF_TOP = 1e-13
_OF_NETWORK = (1e-11, 1e-22)
"""Relative to the largest signature of the axis, and to the median of the network's (of a sum, and of a sum of
squares): a tensor whose gradient is zero shows rounding alone, which would look like colours."""

_MARGIN = 100.0
"""By how much more than it was measured last rounding is taken to be, where it is not measured."""

_ZERO = 1e-13
_MOST_ROUNDS = 40
_HEARD = 2


class Refiner:
    """Refines colourings by passes of a network.

    Attributes:
        quiet: rounds without a split that end a refinement. A network that chooses (among experts) says nothing of
            what it did not choose in a round, and takes more.
    """

    def __init__(self, network: Network, seed: int) -> None:
        self.network, self.seed, self.quiet = network, seed, 1
        self._heard: dict[AxisOf, NDArray[np.int64]] = {}
        self._noise: Signatures = {}  # relative to the largest signature of the axis
        self._round = 0

    def silent(self, axis: AxisOf) -> NDArray[np.bool_]:
        """The indices of an axis of which no gradient tells; what is heard once may be rounding."""
        return self._heard[axis] < _HEARD

    def next_seed(self) -> int:
        """A seed for the next draw."""
        self._round += 1
        return self.seed * 1_000_003 + self._round

    def refine(self, colourings: Sequence[Colouring], more: int = 0) -> list[Colouring]:
        """Refine together until nothing splits for some rounds.

        Args:
            more: rounds than usual, where a wrong "equal" would cost most.

        Raises:
            MismatchError: the colourings have other colours on an axis.
        """
        known, unchanged = count(colourings[0]), 0
        refined = list(colourings)
        for _ in range(_MOST_ROUNDS):
            refined = self._once(refined, known)
            now = count(refined[0])
            unchanged = unchanged + 1 if now == known else 0
            known = now
            if unchanged >= self.quiet + more:
                break
        return refined

    def _once(self, colourings: Sequence[Colouring], known: int) -> list[Colouring]:
        """One round. How far rounding reaches is measured where nothing splits by far more than it did before."""
        seed = self.next_seed()
        found, tied = zip(*(self.network.signatures(colouring, seed) for colouring in colourings), strict=True)
        if any(tied):
            raise MismatchError("a choice among equal values")
        tops = {axis: np.abs(s).max(0, initial=0.0) for axis, s in found[0].items()}
        self._hear(found[0], tops)
        if self._noise:
            margin = {axis: _MARGIN * tops[axis] * noise for axis, noise in self._noise.items()}
            with suppress(MismatchError):  # is a decision, too: measured below
                refined = self._told_apart(colourings, found, margin)
                if count(refined[0]) > known:
                    return refined
        jittered = self.network.signatures(colourings[0], seed, jitter=True)[0]
        noise = {axis: np.abs(s - jittered[axis]).max(0, initial=0.0) for axis, s in found[0].items()}
        self._noise = {
            axis: np.where(tops[axis] > n, n / np.maximum(tops[axis], 1e-300), 1.0) for axis, n in noise.items()
        }
        return self._told_apart(colourings, found, noise)

    def _hear(self, signatures: Signatures, tops: Signatures) -> None:
        nothing = _ZERO * float(np.median([top.max(initial=0.0) for top in tops.values()]))
        for axis, s in signatures.items():
            heard = np.abs(s).max(-1) > nothing
            self._heard[axis] = self._heard.get(axis, np.zeros(len(heard), np.int64)) + heard

    def _told_apart(
        self, colourings: Sequence[Colouring], found: Sequence[Signatures], noise: Signatures
    ) -> list[Colouring]:
        """The colourings with indices apart whose signatures differ by more than rounding.

        Raises:
            MismatchError: they have other colours on an axis.
        """
        level = [float(np.median([np.abs(s[:, j]).max(initial=0.0) for s in found[0].values()])) for j in (0, 1)]
        refined: list[dict[AxisOf, Colours]] = [{} for _ in colourings]
        for axis in colourings[0]:
            old = np.concatenate([colouring[axis] for colouring in colourings])
            colours = _split(old, [one[axis] for one in found], noise[axis], level).reshape(len(colourings), -1)
            counts = [np.bincount(part, minlength=int(colours.max(initial=0)) + 1) for part in colours]
            if any(not np.array_equal(counts[0], other) for other in counts[1:]):
                raise MismatchError(f"axis {axis[1]} of {axis[0]}")
            for into, part in zip(refined, colours, strict=True):
                into[axis] = part
        return list(refined)


def _split(
    old: Colours, signatures: Sequence[NDArray[np.float64]], noise: NDArray[np.float64], level: Sequence[float]
) -> Colours:
    """New colours: of one old colour, and of signatures that are one but for rounding."""
    stacked = np.concatenate(signatures)
    code = old.astype(np.int64)
    for j in (0, 1):
        x = stacked[:, j]
        top = float(np.abs(x).max(initial=0.0))
        if top < 1e-250:
            continue
        tolerance = _OF_NETWORK[j] * level[j] + _ROUNDINGS * float(noise[j]) + _OF_TOP * top
        order = np.lexsort((x, old))
        new = (np.diff(x[order]) > tolerance) | (np.diff(old[order]) != 0)
        group = np.empty_like(code)
        group[order] = np.concatenate([[0], np.cumsum(new)])
        code = np.unique(code * (int(group.max()) + 1) + group, return_inverse=True)[1].astype(np.int64)
    return code
