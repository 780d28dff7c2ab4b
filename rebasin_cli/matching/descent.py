"""One step of coordinate descent at a time: the present permutations, and what is known about each block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rebasin_cli.matching.assignment import Assignment, Assignments, solve_assignment, solve_assignments
from rebasin_cli.matching.blocks import Tree, solve_block
from rebasin_cli.matching.coupled import Quadratic, improve
from rebasin_cli.matching.forms import forms_of
from rebasin_cli.matching.measures import inner_product
from rebasin_cli.matching.memory import Budget, reading_seconds
from rebasin_cli.matching.similarity import Plan, Similarities
from rebasin_cli.matching.terms import (
    Block,
    Term,
    block_keys,
    block_terms,
    blocks,
    product_of_pieces,
    selections,
    two_sided_terms,
)
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec import Layout

RELATIVE_GAIN = 1e-7
"""A step counts as progress if it raises a block's value by more than this share of it: in float32 the sums of
one step repeat themselves to about 1e-7, and smaller gains would let it cycle between equal solutions."""


@dataclass(slots=True)
class Descent:
    """The present permutations and the blocks that may still gain something.

    Attributes:
        open: roots of blocks to be solved: never visited yet, or a neighbour changed since.
        seconds, gains, solvers, gap: what `MatchResult` reports.
    """

    layout: Layout
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    device: torch.device
    dtype: torch.dtype
    permutation: Permutation
    budget: Budget
    executor: Executor | None = None
    seconds: dict[str, float] = field(default_factory=lambda: {"similarity": 0.0, "assignment": 0.0, "objective": 0.0})
    gains: dict[str, float] = field(default_factory=dict)
    solvers: dict[str, int] = field(default_factory=dict)
    gap: float | None = None
    blocks: tuple[Block, ...] = field(init=False)
    open: set[str] = field(init=False)
    _neighbours: dict[str, set[str]] = field(init=False)
    _quadratic: set[str] = field(init=False)
    _inexact: set[str] = field(init=False)
    _similarities: Similarities = field(init=False)
    _prices: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.blocks = blocks(self.layout)
        self.open = {block.root for block in self.blocks}
        self._neighbours = _neighbours(self.layout, self.blocks)
        self._quadratic = {block.root for block in self.blocks if _stands_twice(self.layout, block)}
        self._inexact = {block.root for block in self.blocks if _has_coupled_insides(self.layout, block)}
        self._inexact |= self._quadratic
        self._similarities = Similarities(
            self.layout, self.a, self.b, self.dtype, self.device, self.budget, self.executor
        )

    def _clock(self) -> float:
        """Seconds that were not spent in reading."""
        return perf_counter() - reading_seconds(self.a, self.b)

    def objective(self) -> float:
        """⟨A, π(B)⟩ at the present permutations, from the tensors."""
        began = self._clock()
        moved = Permutation({dim: perm for dim, perm in self.permutation.items() if _moves(perm)})
        value = inner_product(self.layout, self.a, self.b, moved)
        self.seconds["objective"] += self._clock() - began
        return value

    def visit(self, block: Block) -> float:
        """Solve one block if it is open, keep the result if it is better; the gain (0.0 if there was none)."""
        if block.root not in self.open:
            return 0.0
        self.open.discard(block.root)
        if block.root not in self._quadratic:
            gain = self._plain_step(block) if len(block.dims) == 1 else self._nested_step(block)
        else:
            gain = self._quadratic_step(block) if len(block.dims) == 1 else self._checked_step(block)
        if gain > 0.0:
            self.open |= self._neighbours[block.root]
            if block.root in self._inexact:
                self.open.add(block.root)  # a local solution: from where it is now it may find more
        self.gains[block.root] = self.gains.get(block.root, 0.0) + gain
        return gain

    def anchor(self) -> float:
        """A first pass outwards from the sides that never move; the objective that it reaches.

        The next block is always the one of whose work the largest share is already aligned, and it is solved with
        that share alone: what is not aligned yet says nothing. Blocks with insides and quadratic ones are solved
        as they are when their turn comes. What every piece is worth is known when the last of its dims has been
        solved, so that the objective needs no pass of its own over what has been solved this way.
        """
        waiting = {block.root: block for block in self.blocks}
        done: set[str] = set()
        value = 0.0
        known: set[tuple[str, int]] = set()
        while waiting:
            share = {root: self._aligned_share(block, done) for root, block in waiting.items()}
            root = max(waiting, key=lambda r: share[r])
            block = waiting.pop(root)
            done.update(block.dims)
            if len(block.dims) > 1 or root in self._quadratic:
                gain = self.visit(block)
                if not done.issuperset(self._neighbours[root]) or (gain and root in self._inexact):
                    self.open.add(root)
                continue
            plans = self._similarities.plans(block)
            ready = [plan for plan in plans if done.issuperset(plan.neighbours)]
            if ready:
                value += self._anchored_step(block, ready)
                known.update((plan.bound.key, plan.number) for plan in ready)
            if len(ready) == len(plans):
                self.open.discard(root)
        began = self._clock()
        value += product_of_pieces(self.layout, self.a, self.b, self.permutation, known)
        self.seconds["objective"] += self._clock() - began
        return value

    def _anchored_step(self, block: Block, ready: list[Plan]) -> float:
        began = self._clock()
        matrix = self._similarities.partial(block, self.permutation, ready)
        middle = self._clock()
        found = self._assign_warm(block.root, matrix)
        value = _paired(matrix, found)
        gain = value - _paired(matrix, self.permutation[block.root])
        self.gains[block.root] = self.gains.get(block.root, 0.0) + gain
        self.permutation = self.permutation.replace({block.root: found})
        self.seconds["similarity"] += middle - began
        self.seconds["assignment"] += self._clock() - middle
        return value

    def _aligned_share(self, block: Block, done: set[str]) -> float:
        plans = self._similarities.plans(block) if len(block.dims) == 1 else []
        whole = sum(plan.work for plan in plans)
        return sum(plan.work for plan in plans if done.issuperset(plan.neighbours)) / whole if whole else 0.0

    def _plain_step(self, block: Block) -> float:
        root = block.root
        began = self._clock()
        matrix = self._similarities.matrix(block, self.permutation)
        middle = self._clock()
        found = self._assign_warm(root, matrix)
        before, after = _paired(matrix, self.permutation[root]), _paired(matrix, found)
        self.seconds["similarity"] += middle - began
        self.seconds["assignment"] += self._clock() - middle
        return self._keep(before, after, {root: found})

    def _nested_step(self, block: Block) -> float:
        found, before, after = self._solve(block)
        return self._keep(before, after, found)

    def _quadratic_step(self, block: Block) -> float:
        root = block.root
        n = self.layout.dims[root].size
        linear = torch.zeros(n, n, dtype=torch.float64)
        for term in self._terms(block):  # what is held comes again below, as a quadratic
            if not term.held:
                linear += (term.a @ term.b.T).double().cpu()
        pairs = list(two_sided_terms(self.layout, block, self.a, self.b, self.permutation))
        quadratic = Quadratic(linear, torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]))
        began = self._clock()
        found, gain = improve(quadratic, self.permutation[root], self._assign)
        self.seconds["assignment"] += self._clock() - began
        after = quadratic.value(found)
        return self._keep(after - gain, after, {root: found})

    def _checked_step(self, block: Block) -> float:
        """Owners on two sides of a tensor: what the linear solution promises is kept only if it comes true."""
        keys = {key for dim in block.dims for key in self.layout.users[dim]}
        before = inner_product(self.layout, self.a, self.b, self.permutation, keys)
        found, _, _ = self._solve(block)
        after = inner_product(self.layout, self.a, self.b, self.permutation.replace(found), keys)
        return self._keep(before, after, found)

    def _keep(self, before: float, after: float, found: Mapping[str, Tensor]) -> float:
        if after - before <= RELATIVE_GAIN * max(abs(before), abs(after)):
            return 0.0
        self.permutation = self.permutation.replace(found)
        return after - before

    def _solve(self, block: Block) -> tuple[dict[str, Tensor], float, float]:
        began = self._clock()
        forms = forms_of(self._terms(block))
        middle = self._clock()
        layout = self.layout
        moving = set(layout.moving())
        kept = [dim for dim in block.dims if layout.dims[dim].size > 1]
        tree = Tree(
            {dim: tuple(c for c in layout.children(dim) if c in kept) for dim in kept},
            frozenset(dim for dim in kept if dim not in moving),
            self._solve_all,
        )
        present = {dim: self._present(dim) for dim in kept}
        found, before, after = solve_block(tree, block.root, forms, present)
        self.seconds["similarity"] += middle - began
        self.seconds["assignment"] += self._clock() - middle
        return {dim: perm for dim, perm in found.items() if dim in moving}, before, after

    def _terms(self, block: Block) -> Iterator[Term]:
        return block_terms(self.layout, block, self.a, self.b, self.permutation, dtype=self.dtype, device=self.device)

    def _present(self, dim: str) -> Tensor:
        found = self.permutation.get(dim)
        if found is not None:
            return found
        shape = (*self.layout.owner_sizes(dim), self.layout.dims[dim].size)
        return torch.arange(shape[-1]).expand(shape)

    def _assign(self, matrix: Tensor) -> Tensor:
        return torch.from_numpy(self._solve_one(matrix).columns)

    def _assign_warm(self, root: str, matrix: Tensor) -> Tensor:
        """Start from the prices of the block's last assignment: its matrix has changed little since."""
        found = self._solve_one(matrix, self._prices.get(root))
        if found.prices is not None:
            self._prices[root] = found.prices
        return torch.from_numpy(found.columns)

    def _solve_one(self, matrix: Tensor, prices: NDArray[np.float64] | None = None) -> Assignment:
        found = solve_assignment(matrix, prices=prices)
        self._count(found, 1)
        return found

    def _solve_all(self, matrices: Tensor) -> Tensor:
        found = solve_assignments(matrices)
        self._count(found, len(matrices))
        return torch.from_numpy(found.columns)

    def _count(self, found: Assignment | Assignments, solves: int) -> None:
        self.solvers[found.solver] = self.solvers.get(found.solver, 0) + solves
        if found.gap is not None:
            self.gap = max(self.gap or 0.0, found.gap)


def _neighbours(layout: Layout, found: tuple[Block, ...]) -> dict[str, set[str]]:
    """For each block the others that share a tensor of the objective with it."""
    roots = {dim: block.root for block in found for dim in block.dims}
    neighbours: dict[str, set[str]] = {block.root: set() for block in found}
    for bound in layout.tensors.values():
        if bound.section == "tensors":
            here = {roots[dim] for dim in bound.dims() if dim in roots}
            for root in here:
                neighbours[root] |= here - {root}
    return neighbours


def _has_coupled_insides(layout: Layout, block: Block) -> bool:
    """Whether two dims within one unit stand on one piece: they are solved in turn, which may end too early."""
    moving = set(layout.moving())

    def line(dim: str | None) -> set[str]:
        return set() if dim is None else {dim} | line(layout.dims[dim].owner)

    for key in block_keys(layout, block):
        for piece in layout.tensors[key].pieces:
            here = [side.dim for side in piece.sides if side.dim in block.dims and side.dim in moving]
            if any(one not in line(two) and two not in line(one) for one in here for two in here if one and two):
                return True
    return False


def _paired(matrix: Tensor, perm: Tensor) -> float:
    """Σ_i matrix[i, perm[i]], summed in float64."""
    rows = torch.arange(len(perm), device=matrix.device)
    return float(matrix[rows, perm.to(matrix.device)].double().sum())


def _moves(perm: Tensor) -> bool:
    return not torch.equal(perm, torch.arange(perm.shape[-1]).expand(perm.shape))


def _stands_twice(layout: Layout, block: Block) -> bool:
    return any(
        held
        for key in block_keys(layout, block)
        for piece in layout.tensors[key].pieces
        for _, held in selections(piece, block)
    )
