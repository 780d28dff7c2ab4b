"""What axes alone do not show: permutations of their own for every unit of another dim, and units that are keys.

Each is a guess from the wiring, written down as a spec and tried on the real network with random permutations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from rebasin_cli.derivation.candidate import TOLERANCE, Judge, candidate
from rebasin_cli.derivation.colouring import AxisOf
from rebasin_cli.derivation.expressions import Chain, Expression, Moving, Nest, Still, moves_in, nest, size_of
from rebasin_cli.derivation.reading import Reader
from rebasin_cli.derivation.wiring import Wiring
from rebasin_cli.errors import RebasinError

_NOTHING = 1e-13  # of the largest gradient

_DRAWS = 4
"""Random permutations that a guess is tried with; the proof tries all of it again."""


def holds(judge: Judge, wiring: Wiring, dims: set[int]) -> bool:
    """Whether the real network keeps its function when these dims are permuted as a wiring says."""
    try:
        made = candidate(judge, wiring, "a guess")
        if not {made.draft.spelled(dim) for dim in dims} <= set(made.layout.moving()):
            return False
        return all(made.changes(judge, dims, seed) <= TOLERANCE for seed in range(_DRAWS))
    except RebasinError:  # outside of the language
        return False


def with_inner_permutations(judge: Judge, wiring: Wiring) -> Wiring:
    """Every dim that has a permutation of its own for each unit of another dim, as such: grouped convolutions,
    stacks.
    """
    places, sizes = wiring.dims(), wiring.sizes()
    for dim, names in places.items():
        if dim in wiring.owners or dim in wiring.indices:
            continue
        for owner, others in places.items():
            if owner == dim or not names <= others or dim in _chain_of(wiring, owner):
                continue
            if sizes[dim] < 2 or not all(crossed(wiring, name, dim, owner) for name in names):
                continue
            guess = replace(wiring, owners={**wiring.owners, dim: owner})
            if holds(judge, guess, {dim}):
                wiring = guess
                break
    return wiring


def _chain_of(wiring: Wiring, dim: int) -> list[int]:
    """A dim, its owner, the owner of that, and so on."""
    chain = [dim]
    while chain[-1] in wiring.owners:
        chain.append(wiring.owners[chain[-1]])
    return chain


def crossed(wiring: Wiring, name: str, dim: int, owner: int) -> bool:
    """Whether every entry of a tensor that has a unit of `dim` has one of `owner` too: on another axis, or around
    it.
    """
    axes = [wiring.expressions[name, at] for at in range(len(wiring.shapes[name]))]

    def around(expression: Expression) -> bool:
        if isinstance(expression, Chain):
            return all(around(part) for part in expression.parts if dim in moves_in(part))
        if isinstance(expression, Nest):
            at = next(n for n, factor in enumerate(expression.factors) if dim in moves_in(factor))
            return any(factor == Moving(owner, size_of(factor)) for factor in expression.factors[:at]) or around(
                expression.factors[at]
            )
        return False

    return all(
        around(axis) or any(_all_of(other, owner) for other in axes if other is not axis)
        for axis in axes
        if dim in moves_in(axis)
    )


def _all_of(expression: Expression, owner: int) -> bool:
    """Whether every index of an axis has a unit of a dim."""
    if isinstance(expression, Moving):
        return expression.move == owner
    if isinstance(expression, Nest):
        return any(_all_of(factor, owner) for factor in expression.factors)
    return isinstance(expression, Chain) and all(_all_of(part, owner) for part in expression.parts)


def with_key_indices(judge: Judge, wiring: Wiring) -> Wiring:
    """Every list of equal modules whose members may be permuted, with the axis that chooses among them: experts."""
    fresh = 1 + max(wiring.dims(), default=0)
    for place, count in _lists(wiring):
        axes = _axes_beside(wiring, place, count)
        if not axes:
            continue
        guess = _with_index(wiring, place, count, axes, fresh)
        if guess is not None and holds(judge, guess, {fresh}):
            wiring, fresh = guess, fresh + 1
    return wiring


def with_routers(judge: Judge, wiring: Wiring, routed: Mapping[AxisOf, int]) -> Wiring:
    """Every table that the network chooses from, a router or a codebook, with the axes of that length in the module
    around it.
    """
    fresh = 1 + max(wiring.dims(), default=0)
    for (name, at), choice in routed.items():
        count = wiring.shapes[name][at] if name in wiring.shapes else 0
        for depth in (2, 3, 1):  # what is sorted has no other axis than those of its own module
            around = f"{name.rsplit('.', depth)[0]}." if name.count(".") >= depth else ""
            axes = [
                axis
                for axis, expression in wiring.expressions.items()
                if expression == Still(count) and axis[0].startswith(around)
            ]
            if (name, at) not in axes:
                continue
            guess = wiring.with_axes(dict.fromkeys(axes, nest(count // choice, Moving(fresh, choice), Still(1))))
            if holds(judge, guess, {fresh}):
                wiring, fresh = guess, fresh + 1
                break
    return wiring


def _lists(wiring: Wiring) -> Iterator[tuple[str, int]]:
    """Where equal modules stand under the numbers 0, 1, …, and how many."""
    found: dict[str, dict[int, dict[str, tuple[int, ...]]]] = {}
    for name, shape in wiring.shapes.items():
        for match in re.finditer(r"\.(\d+)\.", name):
            rest = found.setdefault(name[: match.start()], {}).setdefault(int(match[1]), {})
            rest[name[match.end() :]] = tuple(shape)
    for place, members in found.items():
        first = members.get(0)
        numbered = first and len(members) > 1 and set(members) == set(range(len(members)))
        if numbered and all(member == first for member in members.values()):
            yield place, len(members)


def _axes_beside(wiring: Wiring, place: str, count: int) -> list[AxisOf]:
    """The axes of that length which stay, in the module that the list is in."""
    parent = place.rpartition(".")[0]
    return [
        axis
        for axis, expression in wiring.expressions.items()
        if expression == Still(count) and axis[0].startswith(parent) and not axis[0].startswith(f"{place}.")
    ]


def _with_index(wiring: Wiring, place: str, count: int, axes: list[AxisOf], dim: int) -> Wiring | None:
    """One tensor with `{e}` for those of all members; their own dims become one, within the new one."""
    reader = Reader()
    inside = {name for name in wiring.shapes if name.startswith(f"{place}.")}
    outside = {d for (name, _), e in wiring.expressions.items() if name not in inside for d in moves_in(e)}
    shapes: dict[str, tuple[int, ...]] = {}
    expressions: dict[AxisOf, Expression] = {}
    for name, shape in wiring.shapes.items():
        if name not in inside:
            shapes[name] = tuple(shape)
            expressions |= {(name, at): wiring.expressions[name, at] for at in range(len(shape))}
            continue
        number, _, rest = name.removeprefix(f"{place}.").partition(".")
        general = f"{place}.{{e}}.{rest}"
        for at in range(len(shape)):
            own, first = wiring.expressions[name, at], wiring.expressions[f"{place}.0.{rest}", at]
            if not _joined(reader, first, own, dim, outside):
                return None
            if number == "0":
                shapes[general] = tuple(shape)
                expressions[general, at] = own
    owners = {reader.dim(d): reader.dim(owner) for d, owner in wiring.owners.items()} | reader.owners
    expressions |= {axis: Moving(dim, count) for axis in axes}
    renamed = {axis: reader.renamed(expression) for axis, expression in expressions.items()}
    return Wiring(shapes, renamed, owners, {**wiring.indices, dim: place}).pruned()


def _joined(reader: Reader, first: Expression, own: Expression, dim: int, outside: set[int]) -> bool:
    """Join the dims of a member with those of the first member, place by place."""
    one, two = moves_in(first), moves_in(own)
    if len(one) != len(two):
        return False
    for a, b in zip(one, two, strict=True):
        if a != b and (a in outside or b in outside):
            return False
        if a not in outside:
            reader.join(a, b, dim)
    return True


def with_hidden_vectors(judge: Judge, wiring: Wiring) -> Wiring:
    """Vectors that the outputs do not depend on take what the weight beside them has: the bias of keys, which
    softmax takes away.
    """
    changed: dict[AxisOf, Expression] = {}
    top = max((float(g.abs().max()) for g in judge.gradients.values() if g.numel()), default=0.0)
    for name, shape in wiring.shapes.items():
        if len(shape) != 1 or bool((judge.gradients[name].abs() > _NOTHING * top).all()):
            continue
        stem = name.rpartition(".")[0]
        beside = [
            (axis, wiring.expressions[other, axis])
            for other, others in wiring.shapes.items()
            for axis, n in enumerate(others)
            if n == shape[0] and other != name and other.rpartition(".")[0] == stem
        ]
        made = [expression for axis, expression in beside if axis == 0] or [expression for _, expression in beside]
        if len(set(made)) == 1 and moves_in(made[0]):
            changed[name, 0] = made[0]
    return wiring.with_axes(changed)
