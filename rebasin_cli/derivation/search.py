"""The search for dims: a class of units is permuted in a second colouring, and a symmetry is where both refine alike.

Joint colour refinement. Take a class of n indices that nothing tells apart. The first colouring gives each of them a
colour of its own, the second the same colours in a random order; both are refined with the same draws. If every axis
keeps equal multisets of colours, the order extends to a symmetry of the network, and the axes that were split are
those that move along. Its cost does not depend on n. Where all orders are too many, blocks of the class are tried:
heads move as a whole, and what is inside of a head comes later.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from os.path import commonprefix
from time import monotonic

import numpy as np

from rebasin_cli.derivation.choosing import chosen
from rebasin_cli.derivation.colouring import (
    AxisOf,
    ColourClass,
    Colouring,
    Colours,
    MismatchError,
    classes,
    recoloured,
    uniform,
)
from rebasin_cli.derivation.found import Found, Marks, Move
from rebasin_cli.derivation.passes import Network
from rebasin_cli.derivation.refinement import Refiner
from rebasin_cli.derivation.trials import Trial, drawn, longer, respected, splits, squared

_CERTAIN = 1  # more rounds at the start, at the end, and for blocks

Told = Callable[[float | None, str], None]
"""Told the share of indices that are single, and what was found last; None with what is to be said beforehand."""


class Search:
    """A search in a network; `run` does all of it."""

    def __init__(self, network: Network, seed: int = 0, seconds: float = 600.0, told: Told | None = None) -> None:
        self._network, self.refiner = network, Refiner(network, seed)
        self._random, self._seconds, self._told = random.Random(seed), seconds, told
        self._shapes = network.shapes
        self._order = {name: at for at, name in enumerate(self._shapes)}
        lengths = [n for shape in self._shapes.values() for n in shape]
        self._common = {n: lengths.count(n) for n in set(lengths)}
        self._found = Found(marks={axis: [{} for _ in colours] for axis, colours in uniform(self._shapes).items()})
        self._base: Colouring = {}
        self._now: list[Colouring] = []
        self._orders: dict[int, Colours] = {}  # of the moves so far, in the second colouring
        self._decided: set[tuple[AxisOf, tuple[int, ...]]] = set()
        self._alone: set[tuple[AxisOf, tuple[int, ...]]] = set()
        self._start = monotonic()

    def run(self) -> Found:
        """Find the dims."""
        self.begin()
        return self._searched()

    def again(self, gone: set[int]) -> Found:
        """Find what some moves should have been with all others told apart, then what stayed with these told apart.

        Units that are alike may differ once another dim is told apart, and what moves along may show only then.
        """
        found = self._found
        for indices in found.marks.values():
            for marks in indices:
                for move in gone:
                    marks.pop(move, None)
        still, found.still, found.twisted = found.still, [], {}
        self._from(still)
        self._from([])
        return found

    def _from(self, still: Sequence[tuple[ColourClass, str]]) -> Found:
        """Search on with the units of all moves told apart, and those of some classes that stay."""
        found = self._found
        found.silent = {}
        self._orders.clear()
        self._decided.clear()
        self._alone.clear()
        known = {axis: _numbered(self._base[axis], marks) for axis, marks in found.marks.items()}
        for cls, _ in still:
            places = list(cls.positions)
            known[cls.axis][places] = 1 + known[cls.axis].max() + np.arange(len(cls))
        known = {axis: np.unique(colours, return_inverse=True)[1].astype(np.int64) for axis, colours in known.items()}
        base = self.refiner.refine([known], _CERTAIN)[0]
        self._now = [base, dict(base)]
        return self._searched()

    def _searched(self) -> Found:
        last = False
        while (cls := self._next()) is not None:
            if monotonic() - self._start > self._seconds:
                self._found.complete = False
                break
            last = self._stage(cls, keep_lonely=last) == "lonely" or last
            if not last or all((c.axis, c.positions) in self._alone for c in self._open()):
                self._alone.clear()
        try:
            self._now = self.refiner.refine(self._now, _CERTAIN)
        except MismatchError:
            self._found.complete = False
        for indices in self._found.marks.values():
            for marks in indices:
                for move in self._found.twisted:
                    marks.pop(move, None)
        self._network.restore()
        self._found.passes, self._found.seconds = self._network.passes, monotonic() - self._start
        return self._found

    # ---- the start, and what comes next

    def begin(self) -> Colouring:
        """The colours of indices that can be told apart with nothing told."""
        colouring: Colouring = uniform(self._shapes)
        tied = self._network.tied_lengths(colouring, self.refiner.next_seed())
        if tied:
            self._base, self._found.routed = chosen(self.refiner, colouring, tied)
        else:
            self._base = self.refiner.refine([colouring], _CERTAIN)[0]
        self._now = [self._base, dict(self._base)]
        return self._base

    def _open(self) -> list[ColourClass]:
        return [
            cls
            for cls in classes(self._now[0])
            if (cls.axis, cls.positions) not in self._decided
            and not self._silent(cls)
            and cls.axis[0] not in self._network.kept  # nothing else would hear of an order that is not drawn
        ]

    def _next(self) -> ColourClass | None:
        """The class to try next: of the size that most axes have, of vectors first, late in the network first."""
        waiting = [cls for cls in self._open() if (cls.axis, cls.positions) not in self._alone]
        if waiting:
            return min(waiting, key=self._rank)
        for cls in classes(self._now[0]):
            if self._silent(cls):
                self._found.silent[cls.axis] = len(cls)
        return None

    def _rank(self, cls: ColourClass) -> tuple[int, ...]:
        name, at = cls.axis
        shape = self._shapes[name]
        whole = self._common[shape[at]] if shape[at] == len(cls) else 0
        return (-whole, len(shape), len(cls), -self._order[name], at, cls.positions[0])

    def _silent(self, cls: ColourClass) -> bool:
        return bool(self.refiner.silent(cls.axis)[list(cls.positions)].all())

    # ---- one stage

    def _stage(self, cls: ColourClass, *, keep_lonely: bool) -> str:
        """Decide on a class: its mates with it, alone, in blocks, or not at all."""
        why = ""
        for trial in self._trials(cls):
            try:
                trial, states = self._tried(trial)
            except MismatchError as mismatch:
                why = str(mismatch)
                continue
            before, after = self._now[0], states[-1][0]
            touched = [axis for axis in before if after[axis].max() > before[axis].max()]
            if len(touched) == 1 and not keep_lonely:  # most likely what it moves with was hidden: try it at the end
                self._alone.add((cls.axis, cls.positions))
                return "lonely"
            self._record(trial, states)
            self._repeat(trial)
            self._tell(cls)
            return "found"
        self._decided.add((cls.axis, cls.positions))
        self._settle(cls, why)
        return "still"

    def _tried(self, trial: Trial) -> tuple[Trial, list[list[Colouring]]]:
        """The trial and its colourings, with one more round where a class does not follow its orders: part of it may
        rest in one round.

        Raises:
            MismatchError: one of its orders is no symmetry.
        """
        states = self._refined(trial)
        if any(split.match(trial) is None for split in splits(self._now, states)):
            trial = longer(self._random, trial)
            states.append(self._refined(replace(trial, rounds=trial.rounds[-1:]))[0])
        return trial, states

    def _refined(self, trial: Trial) -> list[list[Colouring]]:
        """The colourings after each round of a trial.

        Raises:
            MismatchError: one of its orders is no symmetry.
        """
        return [
            self.refiner.refine(
                recoloured(
                    self._now,
                    [
                        (cls, (trial.blocks, order[trial.blocks]))
                        for cls, order in zip(trial.classes, orders, strict=True)
                    ],
                )
            )
            for orders in trial.rounds
        ]

    def _trials(self, cls: ColourClass) -> Iterator[Trial]:
        """What to try, the largest group first."""
        mates = self._mates(cls)
        if len(mates) > 1:
            yield drawn(self._random, mates)
        yield drawn(self._random, [cls])
        for blocks in self._block_systems([cls])[0]:
            alike = self._with_blocks(mates, blocks) if len(mates) > 1 else []
            if len(alike) > 1:
                yield drawn(self._random, alike, blocks)
            yield drawn(self._random, [cls], blocks)

    def _mates(self, cls: ColourClass) -> list[ColourClass]:
        """The classes of its size on its axis that were one class with it at the start."""
        origin = self._base[cls.axis][cls.positions[0]]
        return [
            other
            for other in classes({cls.axis: self._now[0][cls.axis]})
            if len(other) == len(cls) and self._base[cls.axis][other.positions[0]] == origin
        ]

    def _block_systems(self, group: Sequence[ColourClass]) -> list[list[Colours]]:
        """Ways to cut each class into equal chunks or strides that the stabiliser of its first index respects.

        Told one index apart, what is in its block differs from what is not. The fewest blocks come first.
        """
        firsts = [(cls, (np.minimum(np.arange(len(cls)), 1),)) for cls in group]
        try:
            probe = self.refiner.refine(recoloured(self._now[:1], firsts), _CERTAIN)[0]
        except MismatchError:
            return [[] for _ in group]
        return [respected(probe[cls.axis][list(cls.positions)]) for cls in group]

    def _with_blocks(self, group: Sequence[ColourClass], blocks: Colours) -> list[ColourClass]:
        """The classes that have these blocks, too: of one without them, whose units may all be exchanged, blocks alone
        would be a part.
        """
        systems = zip(group, self._block_systems(group), strict=True)
        return [cls for cls, found in systems if any(np.array_equal(blocks, other) for other in found)]

    def _settle(self, cls: ColourClass, why: str) -> None:
        """No order but the given one is a symmetry: tell the units apart, so that what depends on them goes on."""
        with suppress(MismatchError):
            self._now = self.refiner.refine(recoloured(self._now, [(cls, (np.arange(len(cls)),) * 2)]))
        self._found.still.append((cls, why))

    # ---- the same in other layers

    def _repeat(self, trial: Trial) -> None:
        """What held in one layer is tried in all the others at once."""
        first = trial.classes[0]
        place = _place(first.axis)
        others: list[ColourClass] = []
        for cls in self._open():
            if len(cls) == len(first) and cls.axis != first.axis and _place(cls.axis) == place:
                others.append(cls)
        if others and trial.units < len(first):
            others = self._with_blocks(others, trial.blocks)
        if not others:
            return
        repeated = drawn(self._random, others, trial.blocks)
        with suppress(MismatchError):
            self._record(*self._tried(repeated))

    # ---- writing down what was found

    def _record(self, trial: Trial, states: Sequence[Sequence[Colouring]]) -> None:
        """Go on from the last round, and mark every index that the trial moved with its move and unit."""
        found = splits(self._now, states)
        self._now = list(states[-1])
        start = len(self._found.moves)
        self._found.moves += [Move(cls.axis, trial.units) for cls in trial.classes]
        self._orders |= {start + at: order for at, order in enumerate(trial.rounds[-1])}
        twisted: dict[AxisOf, None] = {}
        for split in found:
            for move, inside, units in split.readings(trial, start, self._near(split.axis)):
                if move is None:
                    twisted[split.axis] = None
                else:
                    self._mark(split.axis, split.places[inside], units, move)
        for axis in twisted:
            at = squared(trial, [(first[axis], second[axis]) for first, second in states])
            if at is None:
                self._found.twisted.update({start + each: axis for each in range(len(trial.classes))})
                continue
            self._found.same[len(self._found.moves)] = start + at
            self._found.moves.append(Move(axis, trial.units))
            places = np.arange(trial.units**2)
            self._mark(axis, places, places // trial.units, start + at)
            self._mark(axis, places, places % trial.units, len(self._found.moves) - 1)

    def _mark(self, axis: AxisOf, places: Colours, units: Colours, move: int) -> None:
        """Note the units of a move that some indices of an axis follow."""
        for place, unit in zip(places, units, strict=True):
            self._found.marks[axis][place][move] = (int(unit), self._found.moves[move].units)

    def _near(self, axis: AxisOf) -> dict[int, Colours]:
        """The orders of all moves, those of its own layer first: two layers may have been given the same one."""
        moves = self._found.moves
        near = sorted(self._orders, key=lambda move: -len(commonprefix([moves[move].axis[0], axis[0]])))
        return {move: self._orders[move] for move in near}

    def _tell(self, cls: ColourClass) -> None:
        if self._told is not None:
            single = sum(int(c.max()) + 1 for c in self._now[0].values() if c.size)
            self._told(single / max(1, sum(len(c) for c in self._now[0].values())), cls.axis[0])


def _numbered(colours: Colours, marks: Sequence[Marks]) -> Colours:
    """Colours of the indices of an axis that tell apart what colours or marks tell apart."""
    number: dict[object, int] = {}
    labels = [(colour, frozenset(own.items())) for colour, own in zip(colours.tolist(), marks, strict=True)]
    return np.array([number.setdefault(label, len(number)) for label in labels], np.int64)


def _place(axis: AxisOf) -> tuple[str, int]:
    """An axis without the numbers of layers in its name."""
    return re.sub(r"\d+", "#", axis[0]), axis[1]
