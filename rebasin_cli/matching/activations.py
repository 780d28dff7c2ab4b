"""Activation matching (Git Re-Basin, arXiv:2209.04836, §3.1): units that answer alike belong together.

The similarity of two units is what their activations have in common over examples and positions: their product
(ordinary least squares) or their correlation. Activations are taken where layers read them, so behind the
nonlinearity: what enters a weight along an axis is ordered as the spec says of that axis. Blocks do not depend on
each other, so that each is solved once and exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from rebasin_cli.matching.assignment import solve_assignments
from rebasin_cli.matching.blocks import Tree, solve_block
from rebasin_cli.matching.descent import Descent
from rebasin_cli.matching.forms import Dense, Form
from rebasin_cli.matching.measures import inner_product
from rebasin_cli.matching.memory import budgets
from rebasin_cli.matching.result import MatchResult
from rebasin_cli.matching.taps import Layer, Taps, per_channel
from rebasin_cli.matching.terms import Block, blocks
from rebasin_cli.matching.weights import OnStep
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec import Layout

Similarity = Literal["covariance", "correlation"]
PairRun = Callable[[Taps, Taps], None]
"""Runs both networks over all examples, batch by batch: A's taps first, then B's on the same batch."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Some channels of a layer's input that belong to dims of one block.

    Attributes:
        dims: the dims, owners before what is within them.
        channels: number of each channel; shape (*sizes of the dims, places without a dim that moves).
    """

    dims: tuple[str, ...]
    channels: Tensor


def segments_of(layout: Layout, key: str, shape: tuple[int, ...], axis: int) -> tuple[Segment, ...]:
    """What the spec says of one axis of a tensor, for the dims that move; each once, however often it is repeated."""
    low = prod(shape[axis + 1 :])
    high = low * shape[axis]
    moving = set(layout.moving())
    found: dict[tuple[object, ...], Segment] = {}
    for piece in layout.tensors[key].pieces:
        here = [at for at, side in enumerate(piece.sides) if low <= side.stride < high and side.size > 1]
        dims = [at for at in here if piece.sides[at].dim in moving]
        names = [str(piece.sides[at].dim) for at in dims]
        owners = {piece.sides[at].owner for at in dims} - {None}
        roots = {layout.root(name) for name in names}
        if not dims or len(set(names)) < len(names) or len(roots) > 1 or not owners <= set(here):
            continue
        dims.sort(key=lambda at: _depth(layout, str(piece.sides[at].dim)))
        channels = torch.tensor(piece.offset % high // low)
        rest = [at for at in here if at not in dims]
        for at in (*dims, *rest):
            side = piece.sides[at]
            channels = channels.unsqueeze(-1) + torch.arange(side.size) * (side.stride // low)
        channels = channels.reshape(*(piece.sides[at].size for at in dims), -1)
        segment = Segment(tuple(str(piece.sides[at].dim) for at in dims), channels)
        found[segment.dims, tuple(channels.flatten().tolist())] = segment
    return tuple(found.values())


def match_activations(
    layout: Layout,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    run: PairRun,
    *,
    prefix: str = "",
    similarity: Similarity = "correlation",
    seed: int = 0,
    on_step: OnStep | None = None,
) -> MatchResult:
    """Match B's units to A's by their activations.

    Args:
        a, b: tensors by key: for what no activation tells, and for the objective.
        run: runs both networks, whose layers' names lack `prefix`, over the same examples.
        similarity: `covariance` is Σ z_A z_Bᵀ (least squares); `correlation` is Pearson's, 0 where a unit is dead.

    Returns:
        The permutation; `objective` is ⟨A, π(B)⟩ of the *weights* before and after, which may well fall. Blocks in
        which a dim has no activations are matched by weights afterwards, the others held.
    """
    shapes = {key: tuple(a[key].shape) for key, bound in layout.tensors.items() if bound.section == "tensors"}
    sums = _Sums(layout, shapes, prefix, similarity == "correlation")
    began = perf_counter()
    run(_Remembering(sums), _Multiplying(sums))
    middle = perf_counter()
    solver = _Solver(layout, sums.grams())
    every = blocks(layout)
    permutation = Permutation.identity(layout)
    start = inner_product(layout, a, b, permutation)
    left = []
    for number, block in enumerate(every):
        found = solver.solve(block)
        if found is None:
            left.append(block)
        else:
            permutation = permutation.replace(found)
        if on_step:
            on_step(0, number + 1, len(every), start)
    descent = Descent(layout, a, b, torch.device("cpu"), torch.float64, permutation, budgets(None)[1])
    while any(descent.visit(block) for block in left):
        pass
    permutation = descent.permutation
    seconds = {"activations": middle - began, "assignment": perf_counter() - middle}
    return MatchResult(
        method="activations",
        permutation=permutation,
        objective=(start, inner_product(layout, a, b, permutation)),
        stop="converged" if every else "nothing-to-move",
        seed=seed,
        seconds=seconds,
        solves=solver.solves + sum(descent.solvers.values()),
        notes=tuple(
            f"{block.root}: not every dim has activations, so it was matched by weights" for block in left
        ),
    )  # fmt: skip


def _depth(layout: Layout, dim: str) -> int:
    return len(layout.owner_sizes(dim))


@dataclass(slots=True)
class _Sum:
    """Σ z_A z_Bᵀ over everything read by one set of dims, and what centres and scales it."""

    products: Tensor
    squares_a: Tensor
    squares_b: Tensor


@dataclass(slots=True)
class _Sums:
    layout: Layout
    shapes: Mapping[str, tuple[int, ...]]
    prefix: str
    centred: bool
    known: dict[str, tuple[Segment, ...]] = field(default_factory=dict)
    waiting: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    totals: dict[tuple[str, ...], _Sum] = field(default_factory=dict)
    means: dict[tuple[str, ...], dict[tuple[str, int], tuple[int, Tensor, Tensor]]] = field(default_factory=dict)

    def read(self, layer: Layer, x: Tensor) -> list[tuple[Segment, Tensor]]:
        """The activations of every segment that a layer reads: (units, observations), float64."""
        if layer.kind == "norm":
            return []
        key = self.prefix + layer.weight
        if key not in self.known:
            shape = self.shapes.get(key, ())
            axis = 1 - layer.outputs
            whole = len(shape) > 1 and shape[axis] == x.shape[layer.channels]  # not so in grouped convolutions
            self.known[key] = segments_of(self.layout, key, shape, axis) if whole else ()
        if not self.known[key]:
            return []
        rows = per_channel(layer, x).T.double()  # (channels, observations)
        return [(s, rows[s.channels.to(rows.device)].flatten(-2).flatten(0, -2)) for s in self.known[key]]

    def add(self, segment: Segment, place: tuple[str, int], a: Tensor, b: Tensor) -> None:
        total = self.totals.get(segment.dims)
        if total is None:
            zeros = torch.zeros(len(a), dtype=torch.float64, device=a.device)
            total = self.totals[segment.dims] = _Sum(zeros.new_zeros(len(a), len(a)), zeros, zeros.clone())
        total.products += a @ b.T
        if not self.centred:
            return
        total.squares_a += a.square().sum(1)
        total.squares_b += b.square().sum(1)
        means = self.means.setdefault(segment.dims, {})
        count, one, two = means.get(place, (0, torch.zeros_like(a[:, 0]), torch.zeros_like(b[:, 0])))
        means[place] = (count + a.shape[1], one + a.sum(1), two + b.sum(1))

    def grams(self) -> dict[tuple[str, ...], Dense]:
        """The similarity over each set of dims, as a form."""
        return {dims: Dense(self._gram(dims).cpu()[None]) for dims in self.totals}

    def _gram(self, dims: tuple[str, ...]) -> Tensor:
        total = self.totals[dims]
        matrix = total.products
        if self.centred:
            variance_a, variance_b = total.squares_a, total.squares_b
            for count, one, two in self.means[dims].values():  # each place about its own mean
                matrix = matrix - torch.outer(one, two) / count
                variance_a, variance_b = variance_a - one.square() / count, variance_b - two.square() / count
            alive_a = variance_a > 1e-12 * total.squares_a
            alive_b = variance_b > 1e-12 * total.squares_b
            scale = torch.outer(torch.where(alive_a, variance_a, 1.0), torch.where(alive_b, variance_b, 1.0)).sqrt()
            matrix = torch.where(torch.outer(alive_a, alive_b), matrix / scale, 0.0)
        sizes = [self.layout.dims[dim].size for dim in dims]
        return matrix.reshape(*sizes, *sizes)


class _Remembering(Taps):
    """A's side: keeps what each layer reads until B comes to it."""

    def __init__(self, sums: _Sums) -> None:
        self.sums = sums

    def entering(self, layer: Layer, x: Tensor) -> None:
        for number, (_, units) in enumerate(self.sums.read(layer, x)):
            self.sums.waiting.setdefault((layer.name, number), []).append(units)


class _Multiplying(Taps):
    """B's side: multiplies what each layer reads with what A's read on the same batch."""

    def __init__(self, sums: _Sums) -> None:
        self.sums = sums

    def entering(self, layer: Layer, x: Tensor) -> None:
        for number, (segment, units) in enumerate(self.sums.read(layer, x)):
            self.sums.add(segment, (layer.name, number), self.sums.waiting[layer.name, number].pop(0), units)


class _Solver:
    def __init__(self, layout: Layout, grams: Mapping[tuple[str, ...], Dense]) -> None:
        self.layout, self.grams, self.solves = layout, grams, 0

    def solve(self, block: Block) -> dict[str, Tensor] | None:
        """The block's best assignment; None if a dim of it that moves has no activations."""
        layout, moving = self.layout, set(self.layout.moving())
        forms: dict[tuple[str, ...], list[Form]] = {
            dims: [gram] for dims, gram in self.grams.items() if set(dims) <= set(block.dims)
        }
        if {dim for dims in forms for dim in dims} < {dim for dim in block.dims if dim in moving}:
            return None
        kept = [dim for dim in block.dims if layout.dims[dim].size > 1]
        tree = Tree(
            {dim: tuple(child for child in layout.children(dim) if child in kept) for dim in kept},
            frozenset(dim for dim in kept if dim not in moving),
            self._assign,
        )
        present = {dim: torch.arange(layout.dims[dim].size).expand(*layout.owner_sizes(dim), -1) for dim in kept}
        found, _, _ = solve_block(tree, block.root, forms, present)
        return {dim: perm for dim, perm in found.items() if dim in moving}

    def _assign(self, matrices: Tensor) -> Tensor:
        self.solves += len(matrices)
        return torch.from_numpy(solve_assignments(matrices).columns)
