"""What an axis consists of, in dims that are numbers: the tree that a pattern of the spec language is written from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True)
class Still:
    """Indices that stay."""

    size: int


@dataclass(frozen=True, slots=True)
class Moving:
    """The units of a move."""

    move: int
    size: int


@dataclass(frozen=True, slots=True)
class Nest:
    """A row-major product, outermost first."""

    factors: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """Segments, one after the other."""

    parts: tuple[Expression, ...]


Expression = Still | Moving | Nest | Chain


def size_of(expression: Expression) -> int:
    """How many indices it stands for."""
    if isinstance(expression, Still | Moving):
        return expression.size
    if isinstance(expression, Chain):
        return sum(map(size_of, expression.parts))
    return prod(map(size_of, expression.factors))


def inside(expression: Expression) -> tuple[Expression, ...]:
    """The factors of a product, or the segments of a chain; nothing for what is neither."""
    if isinstance(expression, Nest):
        return expression.factors
    return expression.parts if isinstance(expression, Chain) else ()


def parts_of(expression: Expression) -> Iterator[Expression]:
    """An expression, and all that it consists of, in order."""
    yield expression
    for part in inside(expression):
        yield from parts_of(part)


def moves_in(expression: Expression) -> list[int]:
    """The moves that stand in it, in order."""
    return [part.move for part in parts_of(expression) if isinstance(part, Moving)]


def unfolded(expression: Expression) -> Expression:
    """An axis with what stands on it twice, such as queries and keys, written twice."""
    if isinstance(expression, Chain):
        return chain([unfolded(part) for part in expression.parts])
    if isinstance(expression, Nest) and expression.factors[0] == Still(2) and moves_in(expression):
        rest = expression.factors[1:]
        once = rest[0] if len(rest) == 1 else Nest(rest)
        return Chain((once, once))
    return expression


def alone_in(expression: Expression, owners: Mapping[int, int], around: frozenset[int] = frozenset()) -> set[int]:
    """The moves that stand in it without the one that they are within around them."""
    if isinstance(expression, Moving):
        return (
            {expression.move}
            if owners.get(expression.move, expression.move) not in {*around, expression.move}
            else set()
        )
    parts = inside(expression)
    if isinstance(expression, Nest):
        around |= {factor.move for factor in parts if isinstance(factor, Moving)}
    return {move for part in parts for move in alone_in(part, owners, around)}


def chain(parts: Sequence[Expression]) -> Expression:
    """Segments one after the other, neighbours that stay as one."""
    flat: list[Expression] = []
    for part in parts:
        flat += part.parts if isinstance(part, Chain) else (part,)
    merged: list[Expression] = []
    for part in flat:
        if merged and isinstance(part, Still) and isinstance(merged[-1], Still):
            merged[-1] = Still(merged[-1].size + part.size)
        else:
            merged.append(part)
    return merged[0] if len(merged) == 1 else Chain(tuple(merged))


def nest(repeats: int, outer: Expression, inner: Expression) -> Expression:
    """A product, `repeats` times over; factors of one unit are left out."""
    factors: list[Expression] = [Still(repeats)] if repeats > 1 else []
    factors.append(outer)
    if isinstance(inner, Nest):
        factors += inner.factors
    elif size_of(inner) > 1 or not isinstance(inner, Still):
        factors.append(inner)
    return factors[0] if len(factors) == 1 else Nest(tuple(factors))
