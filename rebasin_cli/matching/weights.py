"""Weight matching by coordinate descent (Git Re-Basin, arXiv:2209.04836, Algorithm 1), on blocks.

Sweeps over the blocks in random order; each step solves one block exactly with all others held, so that
⟨A, π(B)⟩ never falls; it ends after a sweep that gained nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from rebasin_cli.matching.assignment import Assignment, solve_assignment
from rebasin_cli.matching.blocks import Tree, solve_block
from rebasin_cli.matching.coupled import Quadratic, improve
from rebasin_cli.matching.forms import forms_of
from rebasin_cli.matching.measures import inner_product
from rebasin_cli.matching.result import MatchResult, Stop
from rebasin_cli.matching.terms import Block, Term, block_keys, block_terms, blocks, selections, two_sided_terms
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec import Layout

RELATIVE_GAIN = 1e-7
"""A step counts as progress if it raises a block's value by more than this share of it: in float32 the sums of
one step repeat themselves to about 1e-7, and smaller gains would let it cycle between equal solutions."""

SMALL = 1 << 22
"""Up to this many elements similarities are computed in float64, which costs nothing and breaks no ties by rounding."""

Order = Literal["random", "forward"]
OnStep = Callable[[int, int, int, float], None]


def match_weights(
    layout: Layout,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    seed: int = 0,
    max_sweeps: int = 100,
    start: Permutation | None = None,
    order: Order = "random",
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> MatchResult:
    """Match B's units to A's by their weights.

    Args:
        layout: the spec bound to the shapes of both.
        a, b: tensors by key; may be lazy, are read as often as needed and never modified.
        start: where to begin; identity if None.
        order: `random` visits the blocks of a sweep as Algorithm 1 does, `forward` in the spec's order.
        on_step: called after each step with sweep, step, steps in a sweep, and the objective.

    Returns:
        The permutation and the objective per sweep. It is a local optimum: another seed may end elsewhere.
    """
    descent = _Descent(layout, a, b, torch.device(device), _dtype(layout, a), start or Permutation.identity(layout))
    generator = torch.Generator().manual_seed(seed)
    todo = blocks(layout)
    began = perf_counter()
    objective = [inner_product(layout, a, b, descent.permutation)]
    descent.seconds["objective"] = perf_counter() - began
    stop: Stop = "converged" if todo else "nothing-to-move"
    for sweep in range(max_sweeps if todo else 0):
        visits = torch.randperm(len(todo), generator=generator).tolist() if order == "random" else range(len(todo))
        gained = 0.0
        for step, which in enumerate(visits):
            gained += descent.step(todo[which])
            if on_step:
                on_step(sweep, step + 1, len(todo), objective[-1] + gained)
        objective.append(objective[-1] + gained)
        if gained == 0.0:
            break
    else:
        stop = "max-sweeps" if todo else stop
    return MatchResult(
        method="weights",
        permutation=descent.permutation,
        objective=tuple(objective),
        stop=stop,
        seed=seed,
        seconds=dict(descent.seconds),
        solves=sum(descent.solvers.values()),
        gains=dict(descent.gains),
        solvers=dict(descent.solvers),
        gap=descent.gap,
    )


def _dtype(layout: Layout, a: Mapping[str, Tensor]) -> torch.dtype:
    """The type of the similarities."""
    bound = [t for t in layout.tensors.values() if t.section == "tensors"]
    elements = sum(prod(side.size for side in piece.sides) for tensor in bound for piece in tensor.pieces)
    wide = elements <= SMALL or (bool(bound) and a[bound[0].key].dtype == torch.float64)
    return torch.float64 if wide else torch.float32


@dataclass(slots=True)
class _Descent:
    """The present permutations, and one step at a time."""

    layout: Layout
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    device: torch.device
    dtype: torch.dtype
    permutation: Permutation
    seconds: dict[str, float] = field(default_factory=lambda: {"similarity": 0.0, "assignment": 0.0})
    gains: dict[str, float] = field(default_factory=dict)
    solvers: dict[str, int] = field(default_factory=dict)
    gap: float | None = None

    def step(self, block: Block) -> float:
        """Solve one block, keep the result if it is better, and return the gain (0.0 if there was none)."""
        terms = self._terms(block)
        if not self._is_quadratic(block):
            gain = self._linear_step(block, terms)
        elif len(block.dims) == 1:
            gain = self._quadratic_step(block, terms)
        else:
            gain = self._checked_step(block, terms)
        self.gains[block.root] = self.gains.get(block.root, 0.0) + gain
        return gain

    def _linear_step(self, block: Block, terms: Iterator[Term]) -> float:
        found, before, after = self._solve(block, terms)
        if after - before <= RELATIVE_GAIN * max(abs(before), abs(after)):
            return 0.0
        self.permutation = self.permutation.replace(found)
        return after - before

    def _quadratic_step(self, block: Block, terms: Iterator[Term]) -> float:
        root = block.root
        n = self.layout.dims[root].size
        linear = torch.zeros(n, n, dtype=torch.float64)
        for term in terms:  # what is held comes again below, as a quadratic
            if not term.held:
                linear += (term.a @ term.b.T).double().cpu()
        pairs = list(two_sided_terms(self.layout, block, self.a, self.b, self.permutation))
        quadratic = Quadratic(linear, torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]))
        began = perf_counter()
        found, gain = improve(quadratic, self.permutation[root], self._assign)
        self.seconds["assignment"] += perf_counter() - began
        if gain <= RELATIVE_GAIN * abs(quadratic.value(found)):
            return 0.0
        self.permutation = self.permutation.replace({root: found})
        return gain

    def _checked_step(self, block: Block, terms: Iterator[Term]) -> float:
        """Owners on two sides of a tensor: what the linear solution promises is kept only if it comes true."""
        keys = [key for dim in block.dims for key in self.layout.users[dim]]
        before = inner_product(self.layout, self.a, self.b, self.permutation, keys)
        found, _, _ = self._solve(block, terms)
        trial = self.permutation.replace(found)
        after = inner_product(self.layout, self.a, self.b, trial, keys)
        if after - before <= RELATIVE_GAIN * max(abs(before), abs(after)):
            return 0.0
        self.permutation = trial
        return after - before

    def _solve(self, block: Block, terms: Iterator[Term]) -> tuple[dict[str, Tensor], float, float]:
        began = perf_counter()
        forms = forms_of(terms)
        middle = perf_counter()
        layout = self.layout
        moving = set(layout.moving())
        kept = [dim for dim in block.dims if layout.dims[dim].size > 1]
        tree = Tree(
            {dim: tuple(c for c in layout.children(dim) if c in kept) for dim in kept},
            frozenset(dim for dim in kept if dim not in moving),
            self._solve_one,
        )
        present = {dim: self._present(dim) for dim in kept}
        found, before, after = solve_block(tree, block.root, forms, present)
        self.seconds["similarity"] += middle - began
        self.seconds["assignment"] += perf_counter() - middle
        return {dim: perm for dim, perm in found.items() if dim in moving}, before, after

    def _terms(self, block: Block) -> Iterator[Term]:
        return block_terms(self.layout, block, self.a, self.b, self.permutation, dtype=self.dtype, device=self.device)

    def _present(self, dim: str) -> Tensor:
        found = self.permutation.get(dim)
        if found is not None:
            return found
        shape = (*self.layout.owner_sizes(dim), self.layout.dims[dim].size)
        return torch.arange(shape[-1]).expand(shape)

    def _is_quadratic(self, block: Block) -> bool:
        return any(
            held
            for key in block_keys(self.layout, block)
            for piece in self.layout.tensors[key].pieces
            for _, held in selections(piece, block)
        )

    def _assign(self, matrix: Tensor) -> Tensor:
        return torch.from_numpy(self._solve_one(matrix).columns)

    def _solve_one(self, matrix: Tensor) -> Assignment:
        found = solve_assignment(matrix)
        self.solvers[found.solver] = self.solvers.get(found.solver, 0) + 1
        if found.gap is not None:
            self.gap = max(self.gap or 0.0, found.gap)
        return found
