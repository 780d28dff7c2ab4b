"""Units that stay while what is in them moves: heads that each have a slope of their own, the members of an ensemble.

A search finds what is in every head by itself. Where such dims always stand side by side, in one order, they are one
dim within a fixed one, and the spec holds for any number of heads. Of members that are stacked on an axis of their
own a search finds what all of them share; that each has an order of its own is a guess, tried on the real network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product

from rebasin_cli.derivation.candidate import Judge
from rebasin_cli.derivation.colouring import AxisOf
from rebasin_cli.derivation.expressions import (
    Chain,
    Expression,
    Moving,
    Nest,
    Still,
    chain,
    inside,
    moves_in,
    nest,
    size_of,
)
from rebasin_cli.derivation.late import crossed, holds
from rebasin_cli.derivation.wiring import Wiring

_FEWEST = 3
"""Units: a sum of two is read more easily as it is."""

_GUESSES = 16
"""Ways to choose the axis of the members in each tensor that one dim stands in, of one number of members."""

_Family = tuple[dict[int, int], ...]
"""For every unit that stays, the dims in it, each with the dim of the first unit that it is like."""


def with_fixed_owners(wiring: Wiring) -> Wiring:
    """The wiring with dims that always stand side by side as one dim within a fixed one."""
    fresh = 1 + max(wiring.dims(), default=0)
    for family in _families(wiring):
        guess = _joined(wiring, family, fresh)
        if guess is not None:
            wiring, fresh = guess, fresh + 1
    return wiring


def with_fixed_stacks(judge: Judge, wiring: Wiring) -> Wiring:
    """The wiring with dims that have a permutation of their own for every member of a stack that stays."""
    for dim, names in wiring.dims().items():
        if dim in wiring.owners or dim in wiring.indices or dim in wiring.fixed:
            continue
        guesses = (_stacked(wiring, dim, axes) for axes in _stacks(wiring, dim, sorted(names)))
        wiring = next((guess for guess in guesses if guess and holds(judge, guess, {dim})), wiring)
    return wiring


def _stacks(wiring: Wiring, dim: int, names: Sequence[str]) -> Iterator[tuple[AxisOf, ...]]:
    """For each number of members that all tensors of a dim may have, an axis of them in every tensor."""
    counts: list[dict[int, list[AxisOf]]] = []
    for name in names:
        counts.append({})
        for at in range(len(wiring.shapes[name])):
            expression = wiring.expressions[name, at]
            first = (
                expression.factors[0] if isinstance(expression, Nest) and dim in moves_in(expression) else expression
            )
            if isinstance(first, Still) or (isinstance(first, Moving) and first.move in wiring.fixed):
                counts[-1].setdefault(first.size, []).append((name, at))
    for count in counts[0] if counts else ():
        if count > 1 and all(count in found for found in counts):
            yield from islice(product(*(found[count] for found in counts)), _GUESSES)


def _stacked(wiring: Wiring, dim: int, axes: Sequence[AxisOf]) -> Wiring | None:
    """The wiring with a dim within the members that stand first on these axes; None where it stands without them."""
    known = {move for axis in axes for move in moves_in(wiring.expressions[axis])[:1] if move in wiring.fixed}
    owner = min(known, default=1 + max(wiring.dims()))
    one = dict.fromkeys(known, owner)
    expressions = {axis: _renamed(expression, one) for axis, expression in wiring.expressions.items()}
    for axis in axes:
        first, *rest = inside(expressions[axis]) or (expressions[axis],)
        expressions[axis] = nest(1, Moving(owner, size_of(first)), Nest(tuple(rest)) if rest else Still(1))
    owners = {inner: one.get(outer, outer) for inner, outer in wiring.owners.items()} | {dim: owner}
    made = replace(wiring, expressions=expressions, owners=owners, fixed=(wiring.fixed - known) | {owner})
    return made if all(crossed(made, name, dim, owner) for name, _ in axes) else None


def _families(wiring: Wiring) -> list[_Family]:
    """Dims in equal groups of segments; those that share a dim, or an axis, are one family where they have as many."""
    taken = {*wiring.owners, *wiring.owners.values(), *wiring.indices}
    found: list[_Family] = []
    sums = [inside(expression) for expression in wiring.expressions.values() if isinstance(expression, Chain)]
    for parts in sorted(sums, key=len):  # what is fused with others ends where it does by itself
        here: list[_Family] = []
        for family in _side_by_side(parts, found):
            if not taken.isdisjoint(dim for unit in family for dim in unit):
                continue
            many = [other for other in found if len(other) == len(family)]
            like = [other for other in many if other in here or not other[0].keys().isdisjoint(family[0])]
            for other in like:
                family = tuple(one | two for one, two in zip(other, family, strict=True))
            here = [*(other for other in here if other not in like), family]
            found[:] = [*(other for other in found if other not in like), family]
    return found


def _side_by_side(parts: Sequence[Expression], known: Sequence[_Family]) -> Iterator[_Family]:
    """The families of equal groups that stand side by side in a sum."""
    at = 0
    while at < len(parts):
        step = 1
        for family in known:
            size = _size_of_groups(parts[at:], family)
            if size:
                yield family
                step = size * len(family)
                break
        if step > 1:
            at += step
            continue
        for size in range(1, (len(parts) - at) // _FEWEST + 1):
            first = parts[at : at + size]
            units: list[dict[int, int]] = []
            for start in range(at, len(parts) - size + 1, size):
                like = _like(first, parts[start : start + size])
                if not like or any(not like.keys().isdisjoint(unit) for unit in units):
                    break
                units.append(like)
            if len(units) >= _FEWEST:
                yield tuple(units)
                step = size * len(units)
                break
        at += step


def _like(first: Sequence[Expression], other: Sequence[Expression]) -> dict[int, int] | None:
    """For every dim of some segments the one in its place in others; None where they say something else."""
    mine, theirs = moves_in(Chain(tuple(other))), moves_in(Chain(tuple(first)))
    like = dict(zip(mine, theirs, strict=False))
    one_to_one = len(set(like.values())) == len(like)
    return like if one_to_one and [_renamed(part, like) for part in other] == list(first) else None


def _renamed(expression: Expression, like: Mapping[int, int]) -> Expression:
    if isinstance(expression, Moving):
        return replace(expression, move=like.get(expression.move, expression.move))
    if isinstance(expression, Still):
        return expression
    return type(expression)(tuple(_renamed(part, like) for part in inside(expression)))


def _joined(wiring: Wiring, family: _Family, owner: int) -> Wiring | None:
    """The wiring with a fixed owner of a family; None where its dims stand in another way somewhere."""
    dims = {dim for unit in family for dim in unit}
    changed = {axis: e for axis, e in wiring.expressions.items() if dims & set(moves_in(e))}
    for axis, expression in changed.items():
        parts = list(inside(expression)) if isinstance(expression, Chain) else [expression]
        made: list[Expression] = []
        while parts:
            size = _size_of_groups(parts, family)
            if size:
                first = [_renamed(part, family[0]) for part in parts[:size]]
                made.append(nest(1, Moving(owner, len(family)), chain(first)))
                del parts[: size * len(family)]
            elif dims & set(moves_in(parts[0])):
                return None
            else:
                made.append(parts.pop(0))
        changed[axis] = chain(made)
    within = dict.fromkeys(family[0].values(), owner)
    return replace(wiring.with_axes(changed), owners={**wiring.owners, **within}, fixed=wiring.fixed | {owner})


def _size_of_groups(parts: Sequence[Expression], family: _Family) -> int:
    """How many segments each group of a family has that a sum begins with; none if it does not."""
    return next((n for n in range(1, len(parts) // len(family) + 1) if _is_family(parts, n, family)), 0)


def _is_family(parts: Sequence[Expression], size: int, family: _Family) -> bool:
    """Whether a sum begins with a group of so many segments for every unit of a family, in order."""
    groups = [parts[at * size : (at + 1) * size] for at in range(len(family))]
    first = [_renamed(part, family[0]) for part in groups[0]]
    return all(
        moves_in(Chain(tuple(group))) and set(moves_in(Chain(tuple(group)))) <= unit.keys()
        and [_renamed(part, unit) for part in group] == first
        for group, unit in zip(groups, family, strict=True)
    )  # fmt: skip
