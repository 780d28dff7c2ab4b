"""One step of coordinate descent: a block solved with all others held, and what it cost.

A step looks at the permutations it is given and changes nothing but what is remembered of its own block, so that
steps of blocks that share no tensor may be taken in several threads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rebasin_cli.matching.assignment.solve import Assignment, Assignments, solve_assignment, solve_assignments
from rebasin_cli.matching.problem import Problem, is_small
from rebasin_cli.matching.resources import working_clock
from rebasin_cli.matching.similarity.blocks import (
    Block,
    Over,
    Term,
    block_keys,
    block_terms,
    selections,
    two_sided_terms,
)
from rebasin_cli.matching.similarity.contributions import Dense, Form, Forms, Plan, Worth, forms_of
from rebasin_cli.matching.similarity.matrices import Similarities
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout

if TYPE_CHECKING:
    from rebasin_cli.matching.descent.quadratic import Quadratic


@dataclass(slots=True)
class Step:
    """What a step found, and what it cost.

    Attributes:
        found: new indices of the block's dims.
        before, after: what the block's tensors are worth, ⟨A, π(B)⟩ over those that were looked at.
        seconds, solvers, gap: as of `MatchResult`.
    """

    found: Mapping[str, Tensor] = field(default_factory=dict)
    before: float = 0.0
    after: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: {"similarity": 0.0, "assignment": 0.0})
    solvers: dict[str, int] = field(default_factory=dict)
    gap: float | None = None

    def end(self, found: Mapping[str, Tensor], before: float, after: float) -> None:
        """Note the outcome."""
        self.found, self.before, self.after = found, before, after

    def solve(self, matrix: Tensor, prices: NDArray[np.float64] | None = None) -> Assignment:
        """Solve one assignment and count it."""
        found = solve_assignment(matrix, prices=prices)
        self._count(found, 1)
        return found

    def solve_one(self, matrix: Tensor) -> Tensor:
        """The best columns (n,) of a matrix (n, n)."""
        return torch.from_numpy(self.solve(matrix).columns)

    def solve_all(self, matrices: Tensor) -> Tensor:
        """The best columns (batch, n) of each of the matrices (batch, n, n)."""
        found = solve_assignments(matrices)
        self._count(found, len(matrices))
        return torch.from_numpy(found.columns)

    def _count(self, found: Assignment | Assignments, solves: int) -> None:
        self.solvers[found.solver] = self.solvers.get(found.solver, 0) + solves
        if found.gap is not None:
            self.gap = max(self.gap or 0.0, found.gap)


@dataclass(slots=True)
class Steps:
    """How each block of a match is solved.

    Attributes:
        quadratic: roots of the blocks with a dim on two sides of one tensor: a step finds a better permutation, and
            from there another one may find a better one still.
        beside: by root, what the units of a block are worth beside what the tensors say of them.
    """

    similarities: Similarities
    blocks: tuple[Block, ...]
    beside: Mapping[str, Forms] = field(default_factory=dict)
    problem: Problem = field(init=False)
    quadratic: set[str] = field(init=False)
    _prices: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    _quadratics: dict[str, Quadratic] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.problem = self.similarities.problem
        layout = self.problem.layout
        self.quadratic = {block.root for block in self.blocks if _stands_twice(layout, block)}

    def has_matrices(self, block: Block) -> bool:
        """Whether the block is solved from similarity matrices that are kept between visits."""
        return block.root not in self.quadratic and self.similarities.covers(block)

    def solve(self, block: Block, permutation: Permutation, executor: Executor | None = None) -> Step:
        """Solve a block with all others held.

        Args:
            executor: for parts of its products; None where the step itself runs in one.
        """
        step = Step()
        if block.root not in self.quadratic:
            began = self._clock()
            if self.similarities.covers(block):
                matrices = self.similarities.matrices(block, permutation, executor)
                forms: Forms = _dense(self.problem.layout, block, matrices)
            else:
                forms = forms_of(self._terms(block, permutation))
            step.seconds["similarity"] += self._clock() - began
            self._solve_forms(step, block, permutation, forms)
        elif self._comes_to_rest(block):
            self._solve_quadratic(step, block, permutation)
        else:
            self._solve_checked(step, block, permutation)
        return step

    def anchored(
        self, block: Block, permutation: Permutation, ready: Collection[Plan], executor: Executor | None = None
    ) -> Step:
        """Solve a block by some of its plans alone."""
        step = Step()
        began = self._clock()
        matrices = self.similarities.matrices(block, permutation, executor, ready)
        step.seconds["similarity"] += self._clock() - began
        self._solve_forms(step, block, permutation, _dense(self.problem.layout, block, matrices))
        return step

    def _solve_forms(self, step: Step, block: Block, permutation: Permutation, forms: Forms) -> None:
        began = self._clock()
        forms = self._with_beside(block, forms)
        root = block.root
        if len(block.dims) == 1 and (root,) in forms:
            worth = Worth.of(forms[root,], root, signed=self.problem.layout.dims[root].signs)
            # From the prices of the block's last assignment: its matrix has changed little since.
            assignment = step.solve(worth.best()[0], self._prices.get(root))
            if assignment.prices is not None:
                self._prices[root] = assignment.prices
            found = worth.signed(torch.from_numpy(assignment.columns)[None])[0]
            before, after = (float(worth.total(perm[None])) for perm in (permutation[root], found))
            step.end({root: found}, before, after)
        else:
            step.end(*self._solve_nested(step, block, permutation, forms))
        step.seconds["assignment"] += self._clock() - began

    def _solve_nested(
        self, step: Step, block: Block, permutation: Permutation, forms: Forms
    ) -> tuple[Mapping[str, Tensor], float, float]:
        from rebasin_cli.matching.descent.nested import solve_of_layout

        return solve_of_layout(self.problem.layout, block, forms, permutation, step.solve_all)

    def _solve_quadratic(self, step: Step, block: Block, permutation: Permutation) -> None:
        from rebasin_cli.matching.descent.quadratic import Quadratic, improve

        root = block.root
        n = self.problem.layout.dims[root].size
        began = self._clock()
        linear = torch.zeros(n, n, dtype=torch.float64)
        for term in self._terms(block, permutation, held=False):
            linear += (term.a @ term.b.T).double().cpu()
        for form in self.beside.get(root, {}).get((root,), ()):
            assert isinstance(form, Dense)
            linear += form.gram[0]
        known = self._quadratics.get(root)
        if known is None:
            pairs = list(two_sided_terms(self.problem, block, permutation))
            a, b = (torch.cat([pair[which] for pair in pairs]) for which in (0, 1))
            known = Quadratic(linear, a, b, self.problem.layout.dims[root].signs)
            if self._stays(block):
                self._quadratics[root] = known
        quadratic = known.beside(linear)

        def assign(gradient: Tensor) -> Tensor:
            if not quadratic.signed:
                return step.solve_one(gradient)
            worth = Worth(None, gradient[None])
            return worth.signed(step.solve_one(worth.best()[0])[None])[0]

        middle = self._clock()
        found, gain = improve(quadratic, permutation[root], assign)
        after = quadratic.value(found)
        step.end({root: found}, after - gain, after)
        step.seconds["similarity"] += middle - began
        step.seconds["assignment"] += self._clock() - middle

    def may_find_more(self, block: Block) -> bool:
        """Whether another step may gain something though nothing else has moved: where one is linearised at what was
        there before it, and goes no further."""
        return block.root in self.quadratic and not self._comes_to_rest(block)

    def _comes_to_rest(self, block: Block) -> bool:
        return len(block.dims) == 1 and not self._has_still_sides(block.root)

    def _has_still_sides(self, dim: str) -> bool:
        """Whether the dim has signs, and stands somewhere where these do not act."""
        layout = self.problem.layout
        pieces = (piece for key in layout.users[dim] for piece in layout.tensors[key].pieces)
        return layout.dims[dim].signs and any(side.dim == dim and side.still for p in pieces for side in p.sides)

    def _solve_checked(self, step: Step, block: Block, permutation: Permutation) -> None:
        """Owners on two sides of a tensor, or signs that act on one side alone: what counts is how far the promise of
        the linear solution comes true."""
        keys = {key for dim in block.dims for key in self.problem.layout.users[dim]}
        began = self._clock()
        before = self.problem.objective(permutation, keys) + self._worth_beside(block, permutation)
        forms = self._with_beside(block, forms_of(self._terms(block, permutation)))
        step.seconds["similarity"] += self._clock() - began
        began = self._clock()
        found, _, _ = self._solve_nested(step, block, permutation, forms)
        moved = permutation.replace(found)
        after = self.problem.objective(moved, keys) + self._worth_beside(block, moved)
        step.end(found, before, after)
        step.seconds["assignment"] += self._clock() - began

    def _with_beside(self, block: Block, forms: Forms) -> Forms:
        more = self.beside.get(block.root, {})
        return {dims: [*forms.get(dims, ()), *more.get(dims, ())] for dims in (*forms, *more)} if more else forms

    def _worth_beside(self, block: Block, permutation: Permutation) -> float:
        more = self.beside.get(block.root)
        return self._solve_nested(Step(), block, permutation, more)[1] if more else 0.0

    def _stays(self, block: Block) -> bool:
        """Whether the pieces in which the block's dim stands twice are few, and stay as they are between visits."""
        layout = self.problem.layout
        bounds = [layout.tensors[key] for key in block_keys(layout, block)]
        pieces = [(piece, bound) for bound in bounds for piece in bound.pieces]
        twice = [(p, bound) for p, bound in pieces if [side.dim for side in p.sides].count(block.root) > 1]
        beside = {dim for p, bound in twice for dim in (bound.index_dim, *(side.dim for side in p.sides))}
        return is_small(layout) and beside.isdisjoint({*layout.moving()} - {block.root})

    def _terms(self, block: Block, permutation: Permutation, *, held: bool = True) -> Iterator[Term]:
        of = self.similarities
        return block_terms(self.problem, block, permutation, dtype=of.dtype, device=of.device, held=held)

    def _clock(self) -> float:
        """Seconds that were not spent in reading."""
        return working_clock(self.problem.a, self.problem.b)


def _dense(layout: Layout, block: Block, matrices: Mapping[Over, Tensor]) -> dict[tuple[str, ...], list[Form]]:
    """Matrices over the product of dims as forms over each of them; on the host but for that of a block of one dim."""
    forms: dict[tuple[str, ...], list[Form]] = {}
    for over, matrix in matrices.items():
        sizes = [layout.dims[dim].size for dim in over.dims]
        here = matrix if len(block.dims) == 1 else matrix.cpu()
        forms.setdefault(over.dims, []).append(Dense(here.reshape(1, *sizes, *sizes), over.still))
    return forms


def _stands_twice(layout: Layout, block: Block) -> bool:
    return any(
        held
        for key in block_keys(layout, block)
        for piece in layout.tensors[key].pieces
        for _, held in selections(piece, block)
    )
