"""Changed wirings: what is merged, split, freed, moved or dropped, and whether the change is wrong, smaller or none."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from rebasin_cli.derivation.candidate import TOLERANCE, Judge
from rebasin_cli.derivation.expressions import Chain, Expression, Moving, Nest, Still, chain, parts_of
from rebasin_cli.derivation.wiring import Wiring
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec.binding.layout import Layout

Change = Callable[[Expression], Expression]


def changed_wirings(wiring: Wiring, seed: int) -> Iterator[tuple[str, Wiring]]:
    """Every kind of change, at random places, without end."""
    draw = random.Random(seed)
    kinds = (_merged, _split, _freed, _elsewhere, _recounted, _shared, _reordered, _held, _released)
    while True:
        for kind in kinds:
            made = kind(wiring, draw)
            if made is not None and made != wiring:
                yield kind.__name__.strip("_"), made.pruned()


def order(layout: Layout) -> int:
    """How many elements the group of a spec has."""
    return math.prod(
        math.factorial(layout.dims[dim].size) ** math.prod(layout.owner_sizes(dim)) for dim in layout.moving()
    )


def preserves(judge: Judge, layout: Layout) -> bool:
    """Whether every exchange of two neighbouring units keeps the outputs: these generate the group."""
    for dim, unmoved in Permutation.identity(layout).items():
        size = unmoved.shape[-1]
        for row in range(unmoved.numel() // size):
            for unit in range(size - 1):
                perm = unmoved.clone()
                perm.view(-1, size)[row, [unit, unit + 1]] = torch.tensor([unit + 1, unit])
                if judge.change(dict(permuted(Permutation({dim: perm}), layout, judge.state))) > TOLERANCE:
                    return False
    return True


def _everywhere(wiring: Wiring, change: Change) -> Wiring:
    return wiring.with_axes({axis: _within(e, change) for axis, e in wiring.expressions.items()})


def _within(expression: Expression, change: Change) -> Expression:
    """The expression with `change` of its dims, and of what stays, in their places."""
    if isinstance(expression, Nest):
        return Nest(tuple(_within(factor, change) for factor in expression.factors))
    if isinstance(expression, Chain):
        return chain([_within(part, change) for part in expression.parts])
    return change(expression)


def _at_one(wiring: Wiring, draw: random.Random, fits: Callable[[Expression], bool], change: Change) -> Wiring | None:
    """The wiring with one axis changed on which something fits."""
    axes = [axis for axis, e in wiring.expressions.items() if any(map(fits, parts_of(e)))]
    if not axes:
        return None
    axis = draw.choice(axes)
    return wiring.with_axes({axis: _within(wiring.expressions[axis], lambda e: change(e) if fits(e) else e)})


def _merged(wiring: Wiring, draw: random.Random) -> Wiring | None:
    """Two dims of one size are one."""
    sizes = wiring.sizes()
    pairs = [
        (a, b) for a in sizes for b in sizes
        if a < b and sizes[a] == sizes[b] and not {a, b} & wiring.indices.keys()
        and wiring.owners.get(a) == wiring.owners.get(b)
    ]  # fmt: skip
    if not pairs:
        return None
    one, two = draw.choice(pairs)
    owners = {dim: one if owner == two else owner for dim, owner in wiring.owners.items() if dim != two}
    return replace(_everywhere(wiring, partial(_renamed, {two: one})), owners=owners)


def _renamed(names: dict[int, int], part: Expression) -> Expression:
    return Moving(names.get(part.move, part.move), part.size) if isinstance(part, Moving) else part


def _split(wiring: Wiring, draw: random.Random) -> Wiring | None:
    """A dim is two dims, one behind the other."""
    dims = [dim for dim, size in wiring.sizes().items() if size > 2 and dim not in wiring.indices]
    dims = [dim for dim in dims if dim not in wiring.owners.values()]
    dim, fresh = draw.choice(dims), max(wiring.sizes()) + 1
    cut = draw.randrange(1, wiring.sizes()[dim])

    def two(part: Expression) -> Expression:
        if not isinstance(part, Moving) or part.move != dim:
            return part
        return Chain((Moving(dim, cut), Moving(fresh, part.size - cut)))

    owners = {**wiring.owners, fresh: wiring.owners[dim]} if dim in wiring.owners else wiring.owners
    return replace(_everywhere(wiring, two), owners=owners)


def _freed(wiring: Wiring, draw: random.Random) -> Wiring | None:
    """What stays on one axis moves."""
    fresh = max(wiring.sizes()) + 1
    return _at_one(
        wiring, draw, lambda e: isinstance(e, Still) and e.size > 1,
        lambda e: Moving(fresh, e.size) if isinstance(e, Still) else e,
    )  # fmt: skip


def _elsewhere(wiring: Wiring, draw: random.Random) -> Wiring | None:
    """An axis has another dim of that size, or a new one."""
    sizes = wiring.sizes()
    dim = draw.choice(list(sizes))
    others = [other for other, size in sizes.items() if size == sizes[dim] and other != dim]
    other = draw.choice([*others, max(sizes) + 1])
    return _at_one(wiring, draw, lambda e: isinstance(e, Moving) and e.move == dim, lambda e: Moving(other, sizes[dim]))


def _recounted(wiring: Wiring, draw: random.Random) -> Wiring | None:
    """A product has other factors: heads of another number."""
    sizes = wiring.sizes()
    owned = [(dim, owner) for dim, owner in wiring.owners.items() if owner not in wiring.indices]
    outer = draw.choice(owned)[1] if owned else None
    inner = [dim for dim, owner in owned if owner == outer]
    total = sizes[outer] * sizes[inner[0]] if outer is not None else 0
    counts = [n for n in range(2, total) if total % n == 0 and outer is not None and n != sizes[outer]]
    if outer is None or not counts or len({sizes[dim] for dim in inner}) > 1:
        return None
    new = {outer: draw.choice(counts)}
    new |= dict.fromkeys(inner, total // new[outer])
    return _everywhere(wiring, lambda e: Moving(e.move, new.get(e.move, e.size)) if isinstance(e, Moving) else e)


def _shared(wiring: Wiring, draw: random.Random) -> Wiring | None:
    """A dim within another has one permutation for all of its units."""
    if not wiring.owners:
        return None
    dim = draw.choice(list(wiring.owners))
    return replace(wiring, owners={d: owner for d, owner in wiring.owners.items() if d != dim})


def _reordered(wiring: Wiring, draw: random.Random) -> Wiring | None:
    """Two segments, or two factors, of one axis have changed places."""
    axes = [axis for axis, e in wiring.expressions.items() if isinstance(e, Chain | Nest)]
    if not axes:
        return None
    axis = draw.choice(axes)
    whole = wiring.expressions[axis]
    parts = list(whole.parts if isinstance(whole, Chain) else whole.factors if isinstance(whole, Nest) else ())
    one, two = draw.sample(range(len(parts)), 2)
    parts[one], parts[two] = parts[two], parts[one]
    return wiring.with_axes({axis: chain(parts) if isinstance(whole, Chain) else Nest(tuple(parts))})


def _held(wiring: Wiring, draw: random.Random) -> Wiring | None:
    """A dim stays."""
    dims = [dim for dim in wiring.sizes() if dim not in wiring.indices]
    made = wiring.without({draw.choice(dims)})
    return made if made.dims() else None


def _released(wiring: Wiring, draw: random.Random) -> Wiring | None:
    """A dim of its own is within another one that stands in all of its tensors."""
    places = wiring.dims()
    pairs = [
        (dim, owner) for dim in places for owner in places
        if dim != owner and dim not in wiring.owners and owner not in wiring.owners and places[dim] <= places[owner]
        and not {dim, owner} & (set(wiring.owners.values()) | wiring.indices.keys())
    ]  # fmt: skip
    return replace(wiring, owners={**wiring.owners, **dict([draw.choice(pairs)])}) if pairs else None
