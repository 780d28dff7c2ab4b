"""Activation matching (Git Re-Basin, arXiv:2209.04836, §3.1): units that answer alike belong together.

The similarity of two units is what their activations have in common over examples and positions: their product
(ordinary least squares) or their correlation. Activations are taken where layers read them, so behind the
nonlinearity: what enters a weight along an axis is ordered as the spec says of that axis. Blocks do not depend on
each other, so that each is solved once and exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
from torch import Tensor

from rebasin_cli.hooks import Layer, Taps, per_channel
from rebasin_cli.matching.assignment.solve import solve_assignments
from rebasin_cli.matching.data.channels import Segment, channel_axis, segment_of, segments_of
from rebasin_cli.matching.descent.nested import solve_of_layout
from rebasin_cli.matching.descent.settling import settle_rows, settled
from rebasin_cli.matching.descent.sweep import Descent
from rebasin_cli.matching.options import ActivationOptions
from rebasin_cli.matching.problem import ActivationProblem, MatchResult, Problem, Resources
from rebasin_cli.matching.resources import budgets
from rebasin_cli.matching.similarity.blocks import Block, blocks
from rebasin_cli.matching.similarity.contributions import Dense, Form
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout


def match_by_activations(
    problem: ActivationProblem, resources: Resources = Resources(), options: ActivationOptions = ActivationOptions()
) -> MatchResult:
    """Match B's units to A's by their activations.

    Returns:
        The permutation; `objective` is ⟨A, π(B)⟩ of the *weights* before and after, which may well fall. Blocks in
        which a dim has no activations are matched by weights afterwards, the others held.
    """
    began = perf_counter()
    layout = problem.layout
    grams = pair_grams(problem, options)
    middle = perf_counter()
    if options.mix < 1:
        from rebasin_cli.matching.data.mixing import match_by_both

        both = match_by_both(problem, grams, options.mix, resources)
        return replace(both, seconds={"activations": middle - began, **both.seconds})
    solver = Solver(layout)
    every = blocks(layout)
    permutation = Permutation.identity(layout)
    start = problem.objective(permutation)
    left = []
    for number, block in enumerate(every):
        found = solver.solve(block, grams, {})
        if found is None:
            left.append(block)
        else:
            permutation = permutation.replace(found[0])
        if resources.on_step:
            resources.on_step(0, number + 1, len(every), start)
    permutation, solves = by_weights(problem, permutation, left)
    seconds = {"activations": middle - began, "assignment": perf_counter() - middle}
    return MatchResult(
        method="activations",
        permutation=permutation,
        objective=(start, problem.objective(permutation)),
        stop="converged" if every else "nothing-to-move",
        seed=resources.seed,
        seconds=seconds,
        solves=solver.solves + solves,
        notes=untold(left),
    )


Grams = Mapping[tuple[str, ...], Tensor]
"""By dims (owners first), what their units have in common: shape (*sizes, *sizes), A's first."""


def pair_grams(problem: ActivationProblem, options: ActivationOptions) -> Grams:
    """Run both networks and measure what their units have in common."""
    layout, a = problem.layout, problem.a
    shapes = {key: tuple(a[key].shape) for key, bound in layout.tensors.items() if bound.section == "tensors"}
    sums = _Sums(layout, shapes, problem.prefix, options.similarity == "correlation", problem.modules)
    problem.run(_Remembering(sums), _Multiplying(sums))
    return sums.grams()


def by_weights(problem: Problem, permutation: Permutation, left: Sequence[Block]) -> tuple[Permutation, int]:
    """Match some blocks by their weights, the others held; the permutation, and how many assignments that took."""
    descent = Descent(problem, permutation, torch.float64, torch.device("cpu"), budgets(None)[1])
    while descent.sweep(left)[0]:
        pass
    dims = [dim for block in left for dim in block.dims]
    reached = problem.objective(descent.permutation)
    return settled(problem, descent.permutation, reached, dims), sum(descent.solvers.values())


def untold(left: Sequence[Block]) -> tuple[str, ...]:
    """What must be said of blocks that no activation tells of."""
    return tuple(f"{block.root}: not every dim has activations, so it was matched by weights" for block in left)


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
    named: Mapping[str, str] = field(default_factory=dict)
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
            found = segments_of(self.layout, key, shape, axis) if whole else ()
            self.known[key] = tuple(s for s in found if s.dims[-1] not in self.named)
        if not self.known[key]:
            return []
        rows = per_channel(layer, x).T.double()  # (channels, observations)
        return [(s, _units(s, rows)) for s in self.known[key]]

    def made(self, layer: Layer, y: Tensor) -> list[tuple[Segment, Tensor]]:
        """The activations of every segment that was said to be what a module makes."""
        found = []
        for segment in (segment_of(self.layout, dim) for dim, module in self.named.items() if module == layer.name):
            axis = channel_axis(y.shape, segment.channels.numel())
            assert axis is not None  # seen to before
            rows = y.movedim(axis, -1).flatten(0, -2).T.double()
            found.append((segment, _units(segment, rows)))
        return found

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

    def grams(self) -> dict[tuple[str, ...], Tensor]:
        """The similarity over each set of dims."""
        return {dims: self._gram(dims).cpu() for dims in self.totals}

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


def _units(segment: Segment, rows: Tensor) -> Tensor:
    """(channels, observations) → (units, observations)."""
    return rows[segment.channels.to(rows.device)].flatten(-2).flatten(0, -2)


class _Watching(Taps, ABC):
    """Takes what each layer reads, and what modules make that were named."""

    def __init__(self, sums: _Sums) -> None:
        self.sums = sums
        self.modules = frozenset(sums.named.values())

    def entering(self, layer: Layer, x: Tensor) -> None:
        self.take(layer.name, self.sums.read(layer, x))

    def leaving(self, layer: Layer, y: Tensor) -> Tensor:
        self.take(f"{layer.name} made", self.sums.made(layer, y))
        return y

    @abstractmethod
    def take(self, place: str, found: list[tuple[Segment, Tensor]]) -> None:
        """Take the activations of the segments in one place."""


class _Remembering(_Watching):
    """A's side: keeps activations until B comes to them."""

    def take(self, place: str, found: list[tuple[Segment, Tensor]]) -> None:
        for number, (_, units) in enumerate(found):
            self.sums.waiting.setdefault((place, number), []).append(units)


class _Multiplying(_Watching):
    """B's side: multiplies activations with A's in the same place on the same batch."""

    def take(self, place: str, found: list[tuple[Segment, Tensor]]) -> None:
        for number, (segment, units) in enumerate(found):
            self.sums.add(segment, (place, number), self.sums.waiting[place, number].pop(0), units)


class Solver:
    """Assigns units by activations, block by block, and counts assignments."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.solves = layout, 0

    def solve(
        self, block: Block, grams: Grams, present: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], float] | None:
        """The block's best assignment, from the present one on, and what it gains; None if a dim of it that moves has
        no activations."""
        layout, moving = self.layout, set(self.layout.moving())
        forms: dict[tuple[str, ...], list[Form]] = {
            dims: [Dense(gram[None])] for dims, gram in grams.items() if set(dims) <= set(block.dims)
        }
        if {dim for dims in forms for dim in dims} < {dim for dim in block.dims if dim in moving}:
            return None
        found, before, after = solve_of_layout(layout, block, forms, present, self._assign)
        if len(block.dims) == 1:  # units that no activation tells apart, the dead ones, in their own places
            found = {block.root: settle_rows(found[block.root], grams[block.dims])}
        return found, after - before

    def _assign(self, matrices: Tensor) -> Tensor:
        self.solves += len(matrices)
        return torch.from_numpy(solve_assignments(matrices).columns)
