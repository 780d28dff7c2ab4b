"""From marks on indices to the words of the spec language: products, segments, sides that stay.

Every move marks the indices that it takes along with their unit. An axis is read from the outside in: a move that
all its indices have, in equal runs, is the outermost factor of a product; where the set of moves changes, a segment
ends; what has no mark stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from rebasin_cli.derivation.colouring import AxisOf
from rebasin_cli.derivation.expressions import Chain, Expression, Moving, Nest, Still, chain, inside, nest, size_of
from rebasin_cli.derivation.found import Marks


class UnreadableError(Exception):
    """No pattern says what an axis does."""


class Reader:
    """Reads axes, and finds out which moves are one dim within another.

    Attributes:
        owners: dim → the dim of which every unit has a permutation of its own.
    """

    def __init__(self, same: Mapping[int, int] | None = None) -> None:
        """`same`: moves that are known to be one dim with others."""
        self._same = dict(same or {})
        self.owners: dict[int, int] = {}

    def dim(self, move: int) -> int:
        """The first of the moves that are one dim."""
        while move in self._same:
            move = self._same[move]
        return move

    def read(self, marks: Mapping[AxisOf, Sequence[Marks]]) -> tuple[dict[AxisOf, Expression], list[AxisOf]]:
        """What every axis consists of, and the axes that no pattern can say."""
        found: dict[AxisOf, Expression] = {}
        unreadable = []
        for axis, indices in marks.items():
            try:
                found[axis] = _Axis(self).parse(indices)
            except UnreadableError:
                unreadable.append(axis)
                found[axis] = Still(len(indices))
        return {axis: self.renamed(expression) for axis, expression in found.items()}, unreadable

    def join(self, one: int, two: int, within: int) -> None:
        """Two moves are one dim, of which every unit of `within` has a permutation of its own."""
        first, second = sorted((self.dim(one), self.dim(two)))
        if first != second:
            self._same[second] = first
        owner = self.owners.get(first, self.owners.get(second, within))
        self.owners[first] = owner

    def renamed(self, expression: Expression) -> Expression:
        """The expression with every move as its dim."""
        if isinstance(expression, Moving):
            return Moving(self.dim(expression.move), expression.size)
        if isinstance(expression, Nest):
            return Nest(tuple(map(self.renamed, expression.factors)))
        return Chain(tuple(map(self.renamed, expression.parts))) if isinstance(expression, Chain) else expression


class _Axis:
    """One axis: what it learns of moves that are one dim counts only if all of it can be read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._joined: list[tuple[int, int, int]] = []

    def parse(self, indices: Sequence[Marks]) -> Expression:
        """Read it, and keep what was learned."""
        expression = self._segments(indices)
        for one, two, within in self._joined:
            self._reader.join(one, two, within)
        return expression

    def _segments(self, indices: Sequence[Marks]) -> Expression:
        parts: list[Expression] = []
        at = 0
        while at < len(indices):
            if indices[at]:
                part = self._product(indices[at:])
            else:
                part = Still(next((n for n, marks in enumerate(indices[at:]) if marks), len(indices) - at))
            parts.append(part)
            at += size_of(part)
        return chain(parts)

    def _product(self, indices: Sequence[Marks]) -> Expression:
        """The longest product that the indices begin with, with a move of the first one on its outside.

        Raises:
            UnreadableError: there is none.
        """
        for length, run, move, inner in self._tries(indices):
            units = indices[0][move][1]
            learned = len(self._joined)
            try:
                blocks = [self._segments(inner[at : at + run]) for at in range(0, length, run)]
            except UnreadableError:
                continue
            repeated = all(self._same(block, blocks[at % units]) for at, block in enumerate(blocks))
            if repeated and all(self._alike(blocks[0], block, move) for block in blocks[1:units]):
                return nest(length // (run * units), Moving(move, units), blocks[0])
            del self._joined[learned:]
        return self._stranded(indices)

    def _stranded(self, indices: Sequence[Marks]) -> Expression:
        """The longest product with a move innermost, each unit of which has permutations of its own of what is around.

        Raises:
            UnreadableError: there is none.
        """
        for length, run, move, inner in self._tries(indices):
            units = indices[0][move][1]
            learned = len(self._joined)
            if run > 1 or length == units:
                continue
            with suppress(UnreadableError):
                first, *others = [self._segments(inner[at::units]) for at in range(units)]
                if all(self._alike(first, other, move) for other in others):
                    return Nest((*(first.factors if isinstance(first, Nest) else (first,)), Moving(move, units)))
            del self._joined[learned:]
        raise UnreadableError

    def _tries(self, indices: Sequence[Marks]) -> Iterator[tuple[int, int, int, list[Marks]]]:
        """`_periods`, the longest first, each with its indices without the marks of the move."""
        for length, run, move in sorted(self._periods(indices), reverse=True):
            inner = [{other: mark for other, mark in marks.items() if other != move} for marks in indices[:length]]
            yield length, run, move, inner

    def _periods(self, indices: Sequence[Marks]) -> Iterator[tuple[int, int, int]]:
        """Lengths in which a move's units come in equal runs, one or several times over; the run; the move."""
        for move, (first, units) in indices[0].items():
            extent = next((at for at, marks in enumerate(indices) if move not in marks), len(indices))
            seen = [marks[move][0] for marks in indices[:extent]]
            run = next((at for at, unit in enumerate(seen) if unit != first), len(seen))
            if first != 0:
                continue
            whole = next((at for at, unit in enumerate(seen) if unit != (at // run) % units), len(seen)) // (
                run * units
            )
            for times in range(1, whole + 1):
                yield times * run * units, run, move

    def _same(self, one: Expression, two: Expression) -> bool:
        return self._reader.renamed(one) == self._reader.renamed(two)

    def _alike(self, one: Expression, two: Expression, within: int) -> bool:
        """Whether two blocks say the same, but that each may have permutations of its own."""
        if isinstance(one, Moving) and isinstance(two, Moving):
            if one.size != two.size:
                return False
            if self._reader.dim(one.move) != self._reader.dim(two.move):
                self._joined.append((one.move, two.move, within))
            return True
        if type(one) is not type(two):
            return False
        if isinstance(one, Still):
            return one == two
        first, second = inside(one), inside(two)
        return len(first) == len(second) and all(self._alike(a, b, within) for a, b in zip(first, second, strict=True))


def without_move(marks: Mapping[AxisOf, Sequence[Marks]], gone: int) -> dict[AxisOf, list[Marks]]:
    """The marks of all other moves."""
    return {
        axis: [{move: mark for move, mark in each.items() if move != gone} for each in indices]
        for axis, indices in marks.items()
    }


def split_where_apart(
    marks: Mapping[AxisOf, Sequence[Marks]], unreadable: Sequence[AxisOf], fresh: int
) -> tuple[dict[AxisOf, list[Marks]], int] | None:
    """Moves whose units lie apart on an axis that cannot be read, each as several moves: one for every run of units.

    Half a group is a group still: the units of each run may be permuted among themselves.

    Args:
        fresh: the first number that no move has.

    Returns:
        The new marks and the next number; None if nothing lies apart.
    """
    parts: dict[int, list[int]] = {}  # move → for each unit the number of its run
    for axis in unreadable:
        for move in {move for found in marks[axis] for move in found} - parts.keys():
            runs = _runs_of(move, marks[axis])
            if runs is not None and len(set(runs)) > 1:
                parts[move] = runs
    if not parts:
        return None
    names = {move: {run: fresh + n for n, run in enumerate(sorted(set(runs)))} for move, runs in parts.items()}
    fresh += sum(map(len, names.values()))

    def renewed(found: Marks) -> Marks:
        new: Marks = {}
        for move, (unit, units) in found.items():
            runs = parts.get(move)
            if runs is None:
                new[move] = (unit, units)
            elif runs.count(runs[unit]) > 1:
                new[names[move][runs[unit]]] = (runs[:unit].count(runs[unit]), runs.count(runs[unit]))
        return new

    return {axis: [renewed(found) for found in indices] for axis, indices in marks.items()}, fresh


def _runs_of(move: int, indices: Sequence[Marks]) -> list[int] | None:
    """For each unit of a move the number of the run of neighbours that it is in, where every unit stands once."""
    run, runs, before = 0, {}, -2
    for at, found in enumerate(indices):
        if move in found:
            unit, units = found[move]
            if unit in runs:
                return None
            run += before >= 0 and at != before + 1
            runs[unit], before = run, at
    return [runs[unit] for unit in range(units)] if runs and len(runs) == units else None
