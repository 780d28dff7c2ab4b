"""The best assignment of a block: a dim and, inside each of its units, the dims within it.

The value of putting B's unit j into A's place i is the value of the best inner assignment of that pair; the outer
assignment takes those values (heads of transformers, channels of groups, experts). Two inner dims that stand on one
tensor depend on each other and are solved in turn, the present pair starting from where it is, so that the
value of a block never falls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.matching.assignment import Assignment, solve_assignment
from rebasin_cli.matching.forms import Form, Forms

Solve = Callable[[Tensor], Assignment]
Indices = Mapping[str, Tensor]

INNER_ROUNDS = 20
"""Rounds over dims that depend on each other inside one pair; they settle in two or three."""


@dataclass(slots=True)
class Tree:
    """Which dims of a block are within which, and which of them stay at identity."""

    children: Mapping[str, tuple[str, ...]]
    fixed: frozenset[str]
    solve: Solve = solve_assignment
    solves: int = field(default=0)


def solve_block(tree: Tree, root: str, forms: Forms, present: Indices) -> tuple[dict[str, Tensor], float, float]:
    """Find the best assignment of `root` and everything within it.

    Args:
        forms: over `root` alone or `root` and dims within it.
        present: indices of every dim of the block, shape (*owner sizes, n).

    Returns:
        New indices, the value at present, and the new value; the new one is at least the present one.
    """
    forms = {sides: found for sides, found in forms.items() if found}
    if not tree.children.get(root):
        matrix = _total_matrix(forms[root,])
        here = _diagonal(matrix, present[root])
        if root in tree.fixed:
            return {root: present[root]}, here, here
        found = _assign(tree, matrix)
        return {root: found}, here, _diagonal(matrix, found)
    return _solve_owner(tree, root, forms, present)


def _solve_owner(tree: Tree, root: str, forms: Forms, present: Indices) -> tuple[dict[str, Tensor], float, float]:
    n = present[root].shape[-1]
    place = present[root].tolist()
    values = torch.full((n, n), -torch.inf, dtype=torch.float64)
    inner: dict[tuple[int, int], dict[str, Tensor]] = {}
    here = 0.0
    for i in range(n):
        for j in [place[i]] if root in tree.fixed else range(n):
            rest = {sides[1:]: [form.pair(i, j) for form in found] for sides, found in forms.items()}
            base = sum(form.value() for form in rest.pop((), []))
            start = {dim: perm[i] for dim, perm in present.items() if dim != root}
            if j != place[i]:
                start = {dim: torch.arange(perm.shape[-1]).expand(perm.shape) for dim, perm in start.items()}
            inner[i, j], before, value = _solve_siblings(tree, tree.children[root], rest, start)
            values[i, j] = base + value
            if j == place[i]:
                here += base + before
    outer = present[root] if root in tree.fixed else _assign(tree, values)
    pairs = [inner[i, int(outer[i])] for i in range(n)]
    found = {dim: torch.stack([pair[dim] for pair in pairs]) for dim in pairs[0]}
    return {root: outer, **found}, here, float(values[torch.arange(n), outer].sum())


def _solve_siblings(
    tree: Tree, dims: Sequence[str], forms: Forms, start: Indices
) -> tuple[dict[str, Tensor], float, float]:
    """Solve the dims within one pair; those that stand together on a form in turn, until nothing rises."""
    indices = {dim: perm.clone() for dim, perm in start.items()}
    moving = [dim for dim in dims if any(sides and dim in sides for sides in forms)]
    together = any(sum(dim in sides for dim in moving) > 1 for sides in forms)
    if not together:
        before = value = 0.0
        for dim in moving:
            own = {sides: found for sides, found in forms.items() if dim in sides}
            changed, was, now = solve_block(tree, dim, own, _subtree(tree, dim, indices))
            indices.update(changed)
            before, value = before + was, value + now
        return indices, before, value
    before = value = _evaluate(tree, forms, indices)
    for _ in range(INNER_ROUNDS):
        last = value
        for dim in moving:
            own = {sides: found for sides, found in forms.items() if dim in sides}
            reduced = _apply_others(tree, dim, own, indices)
            changed, was, now = solve_block(tree, dim, reduced, _subtree(tree, dim, indices))
            if now > was:
                indices.update(changed)
                value += now - was
        if value <= last + 1e-9 * abs(last):
            break
    return indices, before, value


def _apply_others(tree: Tree, dim: str, forms: Forms, indices: Indices) -> dict[tuple[str, ...], list[Form]]:
    """Forms over `dim` and what is within it, all other dims summed along at their present permutations."""
    ours = {dim, *_below(tree, dim)}
    reduced: dict[tuple[str, ...], list[Form]] = {}
    for sides, found in forms.items():
        for form in found:
            rest = tuple(d for d in sides if d in ours)
            reduced.setdefault(rest, []).extend(_sum_along(tree, form, sides, ours, indices))
    return reduced


def _sum_along(tree: Tree, form: Form, sides: tuple[str, ...], keep: set[str], indices: Indices) -> list[Form]:
    """Sum a form along every dim that is not kept, at the permutations given; owners unit by unit."""
    other = next((d for d in sides if d not in keep), None)
    if other is None:
        return [form]
    position = sides.index(other)
    rest = (*sides[:position], *sides[position + 1 :])
    below = set(_below(tree, other))
    if not below & set(sides):
        return _sum_along(tree, form.along(position, indices[other]), rest, keep, indices)
    leading = form.lead(position)
    found: list[Form] = []
    for i, j in enumerate(indices[other].tolist()):
        inside = {d: perm[i] if d in below else perm for d, perm in indices.items()}
        found += _sum_along(tree, leading.pair(i, j), rest, keep, inside)
    return found


def _evaluate(tree: Tree, forms: Forms, indices: Indices) -> float:
    """The value of all forms at the permutations given."""
    return sum(
        part.value()
        for sides, found in forms.items()
        for form in found
        for part in _sum_along(tree, form, sides, set(), indices)
    )


def _below(tree: Tree, dim: str) -> list[str]:
    return [d for child in tree.children.get(dim, ()) for d in (child, *_below(tree, child))]


def _subtree(tree: Tree, dim: str, indices: Indices) -> dict[str, Tensor]:
    return {d: indices[d] for d in (dim, *_below(tree, dim)) if d in indices}


def _total_matrix(found: Sequence[Form]) -> Tensor:
    total = found[0].matrix()
    for form in found[1:]:
        total = total + form.matrix()
    return total


def _diagonal(matrix: Tensor, perm: Tensor) -> float:
    rows = torch.arange(len(perm), device=matrix.device)
    return float(matrix[rows, perm.to(matrix.device)].double().sum())


def _assign(tree: Tree, matrix: Tensor) -> Tensor:
    tree.solves += 1
    return torch.from_numpy(np.ascontiguousarray(tree.solve(matrix).columns))
