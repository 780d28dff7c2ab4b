"""The best assignment of a block: a dim and, inside each of its units, the dims within it.

The value of putting B's unit j into A's place i is the value of the best inner assignment of that pair; the outer
assignment takes those values (heads of transformers, channels of groups, experts). Two inner dims that stand on one
tensor depend on each other and are solved in turn, the present pair starting from where it is, so that the
value of a block never falls.

All pairs are worked on together: a batch of forms in, a batch of permutations and values out, on every level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.matching.objective import paired_sum
from rebasin_cli.matching.similarity.blocks import Block
from rebasin_cli.matching.similarity.contributions import Dense, Form, Forms, Worth
from rebasin_cli.permutation.values import units_of
from rebasin_cli.spec import Layout

Solve = Callable[[Tensor], Tensor]
"""Matrices (batch, n, n) → the best columns of each (batch, n)."""

Indices = Mapping[str, Tensor]
Solution = tuple[dict[str, Tensor], Tensor, Tensor]
"""Indices of every dim, shape (batch, *owner sizes, n); values at present and now, float64, shape (batch,)."""

INNER_ROUNDS = 20
"""Rounds over dims that depend on each other inside one pair; they settle in two or three."""

TILE = 1 << 24
"""Entries that the forms of the pairs worked on at a time may have (64 MiB in float32), but for one pair alone."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Which dims of a block are within which, which of them stay at identity, who solves assignments, and the units of
    which dims may have their signs turned."""

    children: Mapping[str, tuple[str, ...]]
    fixed: frozenset[str]
    solve: Solve
    signed: frozenset[str] = frozenset()

    def below(self, dim: str) -> list[str]:
        """The dims within `dim`, owners first."""
        return [d for child in self.children.get(dim, ()) for d in (child, *self.below(child))]


def solve_of_layout(
    layout: Layout, block: Block, forms: Forms, permutation: Mapping[str, Tensor], solve: Solve
) -> tuple[dict[str, Tensor], float, float]:
    """`solve_block` for a block of a layout, from where its dims are; new indices of the dims that may move."""
    moving = set(layout.moving())
    kept = [dim for dim in block.dims if layout.dims[dim].size > 1]
    tree = Tree(
        {dim: tuple(child for child in layout.children(dim) if child in kept) for dim in kept},
        frozenset(dim for dim in kept if dim not in moving),
        solve,
        frozenset(layout.signed()),
    )
    identity = {dim: torch.arange(layout.dims[dim].size).expand(*layout.owner_sizes(dim), -1) for dim in kept}
    present = {dim: permutation.get(dim, still) for dim, still in identity.items()}
    found, before, after = solve_block(tree, block.root, forms, present)
    return {dim: perm for dim, perm in found.items() if dim in moving}, before, after


def solve_block(tree: Tree, root: str, forms: Forms, present: Indices) -> tuple[dict[str, Tensor], float, float]:
    """Find the best assignment of `root` and everything within it.

    Args:
        forms: a batch of one; over `root` alone or `root` and dims within it.
        present: indices of every dim of the block, shape (*owner sizes, n).

    Returns:
        New indices, the value at present, and the new value; the new one is at least the present one.
    """
    start = {dim: perm[None] for dim, perm in present.items()}
    found, before, after = _solve(tree, root, forms, start)
    return {dim: perm[0] for dim, perm in found.items()}, float(before), float(after)


def _solve(tree: Tree, root: str, forms: Forms, present: Indices) -> Solution:
    forms = {sides: found for sides, found in forms.items() if found}
    if tree.children.get(root):
        return _solve_owner(tree, root, forms, present)
    worth = Worth.of(forms[root,], root, signed=root in tree.signed)
    here = worth.total(present[root])
    if root in tree.fixed:
        return {root: present[root]}, here, here
    found = worth.signed(tree.solve(worth.best()))
    return {root: found}, here, worth.total(found)


def _solve_owner(tree: Tree, root: str, forms: Forms, present: Indices) -> Solution:
    """Solve what is inside of every pair of units, then the units by what their insides are worth."""
    place = present[root]
    batch, n = place.shape
    own = {dim: present[dim] for dim in tree.below(root)}
    if root in tree.fixed:
        inside = {sides[1:]: [form.paired(place) for form in found] for sides, found in forms.items()}
        start = {dim: perm.flatten(0, 1) for dim, perm in own.items()}
        base, (found, before, after) = _solve_inside(tree, root, inside, start)
        one, two = ((base + value).reshape(batch, n).sum(1) for value in (before, after))
        return {root: place, **{dim: perm.reshape(batch, n, *perm.shape[1:]) for dim, perm in found.items()}}, one, two

    is_present = torch.zeros(batch, n, n, dtype=torch.bool).scatter_(2, place[:, :, None], True)
    values = torch.empty(batch, n, n, dtype=torch.float64)
    here = torch.zeros(batch, dtype=torch.float64)
    pairs = {dim: torch.empty(batch, n, n, *perm.shape[2:], dtype=perm.dtype) for dim, perm in own.items()}
    for rows, columns in _tiles(n, batch, forms):
        inside = {sides[1:]: [form.pairs(rows, columns) for form in found] for sides, found in forms.items()}
        at = is_present[:, rows, columns]
        start = {dim: _starts(perm[:, rows], at) for dim, perm in own.items()}
        base, (found, before, after) = _solve_inside(tree, root, inside, start)
        values[:, rows, columns] = (base + after).reshape(at.shape)
        here += ((base + before).reshape(at.shape) * at).sum((1, 2))
        for dim, perm in found.items():
            pairs[dim][:, rows, columns] = perm.reshape(*at.shape, *perm.shape[1:])
    outer = tree.solve(values)
    which = torch.arange(batch)[:, None], torch.arange(n), outer
    return {root: outer, **{dim: perm[which] for dim, perm in pairs.items()}}, here, paired_sum(values, outer)


def _tiles(n: int, batch: int, forms: Forms) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of pairs, few enough that what their forms hold fits in memory."""
    for_pair = sum(_inner_entries(form) for found in forms.values() for form in found)
    held = max(1, TILE // max(1, for_pair * batch))  # pairs at a time
    rows, columns = max(1, held // n), min(n, held)
    for i in range(0, n, rows):
        for j in range(0, n, columns):
            yield slice(i, i + rows), slice(j, j + columns)


def _inner_entries(form: Form) -> int:
    """Entries of the form of one pair."""
    shape = form.gram.shape[1:] if isinstance(form, Dense) else form.a.shape[:-1] + form.a.shape[:-1]
    return int(shape.numel()) // form.size**2


def _starts(perm: Tensor, is_present: Tensor) -> Tensor:
    """Where the insides of each pair start: the present pair from where it is, the others from identity.

    Args:
        perm: (batch, i, .., n); is_present: (batch, i, j).

    Returns:
        Indices of shape (batch · i · j, .., n).
    """
    identity = torch.arange(perm.shape[-1])
    mask = is_present.reshape(*is_present.shape, *(1,) * (perm.dim() - 2))
    return torch.where(mask, perm[:, :, None], identity).flatten(0, 2)


def _solve_inside(
    tree: Tree, root: str, forms: Mapping[tuple[str, ...], list[Dense]], start: Indices
) -> tuple[Tensor, Solution]:
    """What each pair is worth by itself (batch,), and the solution of the dims within."""
    count = len(next(iter(start.values())))
    base = torch.zeros(count, dtype=torch.float64)
    for form in forms.get((), ()):
        base += form.gram
    return base, _solve_siblings(tree, tree.children[root], {k: list(v) for k, v in forms.items() if k}, start)


def _solve_siblings(tree: Tree, dims: Sequence[str], forms: Forms, start: Indices) -> Solution:
    """Solve the dims within one pair; those that stand together on a form in turn, until nothing rises."""
    moving = [dim for dim in dims if any(dim in sides for sides in forms)]
    if any(sum(dim in sides for dim in moving) > 1 for sides in forms):
        return _solve_in_turn(tree, moving, forms, start)
    indices = dict(start)
    count = len(next(iter(start.values())))
    before, value = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for dim in moving:
        own = {sides: found for sides, found in forms.items() if dim in sides}
        changed, was, now = _solve(tree, dim, own, _subtree(tree, dim, indices))
        indices.update(changed)
        before, value = before + was, value + now
    return indices, before, value


def _solve_in_turn(tree: Tree, moving: Sequence[str], forms: Forms, start: Indices) -> Solution:
    """Rounds over the dims, of those pairs of the batch alone that still rise."""
    indices = dict(start)
    before = _evaluate(tree, forms, indices)
    value = before.clone()
    rising = torch.arange(len(value))
    for _ in range(INNER_ROUNDS):
        last = value[rising]
        now_forms: Forms = {sides: [_picked(form, rising) for form in found] for sides, found in forms.items()}
        for dim in moving:
            here = {d: perm[rising] for d, perm in indices.items()}
            own = {sides: found for sides, found in now_forms.items() if dim in sides}
            changed, was, now = _solve(tree, dim, _apply_others(tree, dim, own, here), _subtree(tree, dim, here))
            better = now > was
            chosen = rising[better]
            for d, perm in changed.items():
                indices[d] = indices[d].index_copy(0, chosen, perm[better])
            value[chosen] += (now - was)[better]
        rising = rising[value[rising] > last + 1e-9 * last.abs()]
        if not len(rising):
            break
    return indices, before, value


def _picked(form: Form, which: Tensor) -> Form:
    assert isinstance(form, Dense)  # only what lies outside of all pairs is ever kept in factors
    return form if len(which) == len(form.gram) else replace(form, gram=form.gram[which])


def _apply_others(tree: Tree, dim: str, forms: Forms, indices: Indices) -> dict[tuple[str, ...], list[Form]]:
    """Forms over `dim` and what is within it, all other dims summed along at their present permutations."""
    ours = {dim, *tree.below(dim)}
    reduced: dict[tuple[str, ...], list[Form]] = {}
    for sides, found in forms.items():
        rest = tuple(d for d in sides if d in ours)
        for form in found:
            assert isinstance(form, Dense)
            reduced.setdefault(rest, []).append(_sum_along(tree, form, sides, ours, indices))
    return reduced


def _sum_along(tree: Tree, form: Dense, sides: tuple[str, ...], keep: set[str], indices: Indices) -> Dense:
    """Sum forms along every dim that is not kept, at the permutations given; what is within an owner unit by unit."""
    other = next((d for d in sides if d not in keep), None)
    if other is None:
        return form
    position = sides.index(other)
    rest = (*sides[:position], *sides[position + 1 :])
    below = set(tree.below(other))
    if not below & set(sides):
        perm = units_of(indices[other]) if other in form.still else indices[other]
        return _sum_along(tree, form.along(position, perm), rest, keep, indices)
    batch, n = indices[other].shape
    inside = {d: perm.flatten(0, 1) if d in below else perm.repeat_interleave(n, 0) for d, perm in indices.items()}
    units = form.lead(position).paired(indices[other])  # a batch of batch · n
    gram = _sum_along(tree, units, rest, keep, inside).gram
    return replace(form, gram=gram.reshape(batch, n, *gram.shape[1:]).sum(1))


def _evaluate(tree: Tree, forms: Forms, indices: Indices) -> Tensor:
    """The value of all forms at the permutations given, float64 (batch,)."""
    total = torch.zeros(len(next(iter(indices.values()))), dtype=torch.float64)
    for sides, found in forms.items():
        for form in found:
            assert isinstance(form, Dense)
            total += _sum_along(tree, form, sides, set(), indices).gram
    return total


def _subtree(tree: Tree, dim: str, indices: Indices) -> dict[str, Tensor]:
    return {d: indices[d] for d in (dim, *tree.below(dim)) if d in indices}
