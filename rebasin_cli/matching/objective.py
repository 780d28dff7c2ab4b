"""How near two networks are: exact inner products and distances, before and after a permutation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from math import sqrt

import torch
from torch import Tensor

from rebasin_cli.matching.resources import in_order
from rebasin_cli.permutation.gather import permute_tensor
from rebasin_cli.permutation.values import Permutation, is_identity, turned_where, units_of
from rebasin_cli.spec import Layout

AT_ONCE = 4
"""Tensors looked at side by side at most: each takes the memory of itself and a copy."""

LARGE = 1 << 25
"""Elements from which on a tensor is looked at alone."""

_SLICE = 1 << 16  # in float64 three of them still fit into a cache


@dataclass(frozen=True, slots=True)
class Distance:
    """Distances over the spec's `tensors`, all in float64.

    Attributes:
        before: ‖A − B‖; after: ‖A − π(B)‖.
        cosine_before, cosine_after: cosine of the angle between A and B, and A and π(B); −1 to 1.
        moved: share of each dim's units that are not in their own place or are turned, 0 to 1.
        turned: share of those whose sign is turned, of dims with any.
        relative: ‖A − π(B)‖ / ‖A − B‖ over the tensors in which a dim stands (1 where nothing was gained).
        gains: by dims without an owner that move, or in which others do, what all that adds to ⟨A, π(B)⟩: dims are
            switched from their own order to π's one after the other, once in the spec's order and once backwards, and
            the rises with each are averaged. So what two dims gain only together goes to each in halves (as by Shapley
            values, where no more than two stand on a tensor), and all of them sum up to the whole rise.
    """

    before: float
    after: float
    cosine_before: float
    cosine_after: float
    moved: Mapping[str, float]
    relative: Mapping[str, float]
    gains: Mapping[str, float]
    turned: Mapping[str, float] = field(default_factory=dict)


def inner_product(
    layout: Layout,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    permutation: Permutation,
    keys: Collection[str] | None = None,
    *,
    executor: Executor | None = None,
) -> float:
    """⟨A, π(B)⟩ over the spec's `tensors` (or those of them in `keys`), products and sum in float64.

    Args:
        executor: takes several tensors side by side; the sum does not depend on it.
    """
    moved = replace(permutation, indices={dim: perm for dim, perm in permutation.items() if not is_identity(perm)})

    def product(key: str) -> float:
        return dot(a[key], permute_tensor(moved, layout, key, b.__getitem__))

    def is_large(key: str) -> bool:
        return sum(piece.elements for piece in layout.tensors[key].pieces) > LARGE

    wanted = [k for k, bound in layout.tensors.items() if bound.section == "tensors" and (keys is None or k in keys)]
    return sum(
        value
        for large, group in groupby(wanted, is_large)
        for value in in_order((partial(product, key) for key in group), None if large else executor, AT_ONCE)
    )


def paired_sum(matrices: Tensor, perm: Tensor) -> Tensor:
    """Σ_i ±S[i, π(i)], summed in float64, of one matrix (n, n) with perm (n,) or of a batch of both."""
    perm = perm.to(matrices.device)
    chosen: Tensor = turned_where(matrices.gather(-1, units_of(perm)[..., None]), (perm < 0)[..., None], torch.neg)
    return chosen.double().sum((-2, -1))


def measure_distance(
    layout: Layout,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    permutation: Permutation,
    on_step: Callable[[str], None] | None = None,
) -> Distance:
    """Measure A against B and π(B), one tensor in memory at a time.

    Gains are those of the places and signs of units; what scales and rotations add is no dim's alone.
    """
    squares: dict[str, tuple[float, float]] = {}
    norm_a = norm_b = norm_moved = 0.0
    multiplies = bool(permutation.scales) or permutation.has_maps
    products = [0.0, 0.0]
    gains = {layout.root(dim): 0.0 for dim in layout.moving()}
    for key, bound in layout.tensors.items():
        if bound.section != "tensors":
            continue
        two = b[key]
        moved = permute_tensor(permutation, layout, key, partial(_read_again, b, key, two))
        before = after = inner = inner_moved = 0.0
        for x, y, z in _slices(a[key], two, moved):
            norm_a, norm_b = norm_a + float(torch.dot(x, x)), norm_b + float(torch.dot(y, y))
            norm_moved += float(torch.dot(z, z)) if multiplies else 0.0
            inner, inner_moved = inner + float(torch.dot(x, y)), inner_moved + float(torch.dot(x, z))
            y, z = y - x, z - x
            before, after = before + float(torch.dot(y, y)), after + float(torch.dot(z, z))
        squares[key] = (before, after)
        products = [products[0] + inner, products[1] + inner_moved]
        read = partial(_read_again, b, key, two)
        known = (inner, None if multiplies else inner_moved)
        for dim, gain in _gains(layout, a[key], read, key, permutation, known).items():
            gains[dim] += gain
        if on_step:
            on_step(key)
    scale = sqrt(norm_a * norm_b) or 1.0
    scale_after = (sqrt(norm_a * norm_moved) or 1.0) if multiplies else scale
    return Distance(
        before=sqrt(sum(s[0] for s in squares.values())),
        after=sqrt(sum(s[1] for s in squares.values())),
        cosine_before=products[0] / scale,
        cosine_after=products[1] / scale_after,
        moved={dim: permutation.fraction_moved(dim) for dim in layout.dims},
        relative={dim: _relative(layout, dim, squares) for dim in layout.moving()},
        gains=gains,
        turned={dim: share for dim in layout.signed() if (share := permutation.fraction_turned(dim))},
    )


def _gains(
    layout: Layout,
    a: Tensor,
    read: Callable[[str], Tensor],
    key: str,
    permutation: Permutation,
    known: tuple[float, float | None],
) -> dict[str, float]:
    """What each dim without an owner adds to one tensor's ⟨A, π(B)⟩ (see `Distance.gains`).

    Args:
        known: ⟨A, B⟩ of the tensor; ⟨A, π(B)⟩, unless π also multiplies.
    """
    blocks: dict[str, dict[str, Tensor]] = {}
    for dim, perm in permutation.items():
        blocks.setdefault(layout.root(dim), {})[dim] = perm
    here = {layout.root(dim) for dim in layout.tensors[key].dims()}
    moved = [root for root, block in blocks.items() if root in here and not all(map(is_identity, block.values()))]
    gains = dict.fromkeys(moved, 0.0)
    products = {frozenset(moved): known[1], frozenset(): known[0]}

    def product(switched: frozenset[str]) -> float:
        found = products.get(switched)
        if found is None:
            indices = {dim: perm for root in switched for dim, perm in blocks[root].items()}
            found = products[switched] = dot(a, permute_tensor(indices, layout, key, read))
        return found

    for order in (moved, moved[::-1]):
        for number, root in enumerate(order):
            gain = product(frozenset(order[: number + 1])) - product(frozenset(order[:number]))
            gains[root] += 0.5 * gain
    return gains


def dot(one: Tensor, two: Tensor) -> float:
    """⟨one, two⟩ in float64."""
    return sum(float(torch.dot(x, y)) for x, y in _slices(one, two))


def squared_distance(one: Tensor, two: Tensor) -> float:
    """‖one − two‖² in float64, from the differences: exact also where the two are nearly equal."""
    return sum(float((x - y).square().sum()) for x, y in _slices(one, two))


def _slices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of as many elements in float64, a slice at a time, so that no float64 copy of a large one is made."""
    lines = [tensor.reshape(-1) for tensor in tensors]
    for at in range(0, lines[0].numel(), _SLICE):
        yield tuple(line[at : at + _SLICE].double() for line in lines)


def _read_again(b: Mapping[str, Tensor], known: str, tensor: Tensor, key: str) -> Tensor:
    """A tensor of B, but for one that has been read."""
    return tensor if key == known else b[key]


def _relative(layout: Layout, dim: str, squares: Mapping[str, tuple[float, float]]) -> float:
    keys = [key for key in layout.users[dim] if key in squares]
    before, after = (sum(squares[key][which] for key in keys) for which in (0, 1))
    return sqrt(after / before) if before > 0 else 1.0
