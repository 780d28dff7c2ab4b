"""Similarity matrices of blocks, kept between visits and mended where their neighbours moved.

S[i, j] = Σ over pieces ⟨A's unit i, B's unit j with everything else aligned⟩ (Git Re-Basin, arXiv:2209.04836, §3.2).
A dim with others within it has a matrix for every set of dims that stand together on a piece, over the product of
their units. Between two visits only some units of the neighbours have moved, and S changes only through them:
S += A[:, moved] · (B[:, new places] − B[:, old places])ᵀ. What has no moving neighbour is computed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rebasin_cli.matching.problem import Problem
from rebasin_cli.matching.resources import Budget, add_product
from rebasin_cli.matching.similarity.blocks import Block, Over, blocks
from rebasin_cli.matching.similarity.contributions import Plan, chunks, flat, permutes_keys, plans_of
from rebasin_cli.permutation.gather import source_key

MENDED_SHARE = 0.3
"""Above this share of moved units a fresh product is cheaper than two gathers and a mend."""

MENDS = 32
"""Mends in a row before a matrix is made again, so that float32 rounding does not pile up."""

THIN = 64
"""Operands with fewer columns than this are added up in one product: by themselves each costs a pass over S."""

LARGEST = 1 << 28
"""Entries that a matrix over several dims may have (1 GiB in float32): larger ones are worked on in parts."""


@dataclass(slots=True)
class _Kept:
    """A matrix, the permutations of the neighbours at which it is right, and the plans it does not hold yet.

    A matrix of the first pass holds some plans, and is completed later: made again it takes 6 to 40 per cent longer
    (`python -m tests.benchmarks --cases resnet50,vgg16 --weights planted,independent`).
    """

    matrix: Tensor
    at: dict[str, Tensor]
    missing: list[Plan] = field(default_factory=list)
    mends: int = 0


@dataclass(slots=True)
class Similarities:
    """The similarity matrices of all blocks. Different blocks may be asked for in different threads.

    Attributes:
        budget: for the matrices that are kept; those that do not fit are made again at every visit. Who gets how much
            is settled at the start, so that it depends neither on the order of the visits nor on their threads.
        products, mends: how many matrices were made and how many mended, by what they are over.
    """

    problem: Problem
    dtype: torch.dtype
    device: torch.device
    budget: Budget
    executor: Executor | None = None
    products: Counter[Over] = field(default_factory=Counter)
    mends: Counter[Over] = field(default_factory=Counter)
    _plans: dict[str, dict[Over, list[Plan]]] = field(default_factory=dict)
    _kept: dict[Over, _Kept] = field(default_factory=dict)
    _still: dict[Over, Tensor] = field(default_factory=dict)
    _keeps: set[Over] = field(default_factory=set)
    _keeps_still: set[Over] = field(default_factory=set)

    def __post_init__(self) -> None:
        layout = self.problem.layout
        moving = frozenset(layout.moving())
        for block in blocks(layout):
            if permutes_keys(layout, block):
                continue
            plans = plans_of(layout, block, moving)
            if any(len(plan.units) > 1 and plan.size**2 > LARGEST for plan in plans):
                continue
            groups = self._plans.setdefault(block.root, {})
            for plan in plans:
                groups.setdefault(plan.over, []).append(plan)
        by_over = [(over, plans) for groups in self._plans.values() for over, plans in groups.items()]
        for keeps, wanted in ((self._keeps, _can_move), (self._keeps_still, _is_partly_still)):
            for over, plans in by_over:
                if wanted(plans) and self.budget.take(plans[0].size ** 2 * self.dtype.itemsize):
                    keeps.add(over)

    def covers(self, block: Block) -> bool:
        """Whether the block has matrices here: not if it permutes keys, or if one over several dims is too large."""
        return block.root in self._plans

    def plans(self, block: Block) -> list[Plan]:
        """The plans of a block."""
        return [plan for plans in self._plans[block.root].values() for plan in plans]

    def matrix(self, block: Block, permutation: Mapping[str, Tensor]) -> Tensor:
        """S (n, n) of a block of one dim at the present permutations of all others. Not to be modified."""
        return self.matrices(block, permutation, self.executor)[Over(block.dims)]

    def matrices(
        self,
        block: Block,
        permutation: Mapping[str, Tensor],
        executor: Executor | None = None,
        only: Collection[Plan] | None = None,
    ) -> dict[Over, Tensor]:
        """Every matrix of a block, at the present permutations of all other blocks. Not to be modified.

        Args:
            only: the plans to make them from, where it is not from all; a later call adds the others.
        """
        found = {}
        for over, plans in self._plans[block.root].items():
            wanted = plans if only is None else [plan for plan in plans if plan in only]
            if wanted:
                found[over] = self._matrix(over, plans, wanted, permutation, executor)
        return found

    def _matrix(
        self,
        over: Over,
        plans: list[Plan],
        wanted: list[Plan],
        permutation: Mapping[str, Tensor],
        executor: Executor | None,
    ) -> Tensor:
        kept = self._kept.get(over)
        missing = [plan for plan in plans if plan not in wanted]
        if kept is not None and kept.mends < MENDS and all(plan in kept.missing for plan in missing):
            held = [plan for plan in plans if plan not in kept.missing]
            if self._mend(over, held, kept, _neighbours(plans, permutation), executor):
                more = [plan for plan in kept.missing if plan in wanted]
                self._add(kept.matrix, over, more, permutation, executor)
                kept.missing = missing
                if over not in self._keeps:
                    del self._kept[over]
                return kept.matrix
        return self._fresh(over, wanted, missing, permutation, executor)

    def _fresh(
        self,
        over: Over,
        plans: list[Plan],
        missing: list[Plan],
        permutation: Mapping[str, Tensor],
        executor: Executor | None,
    ) -> Tensor:
        kept = self._kept.pop(over, None)
        n = plans[0].size
        matrix = torch.zeros(n, n, dtype=self.dtype, device=self.device) if kept is None else kept.matrix.zero_()
        self._add(matrix, over, plans, permutation, executor)
        self.products[over] += 1
        if over in self._keeps:
            self._kept[over] = _Kept(matrix, _neighbours([*plans, *missing], permutation), missing)
        return matrix

    def _add(
        self,
        matrix: Tensor,
        over: Over,
        plans: list[Plan],
        permutation: Mapping[str, Tensor],
        executor: Executor | None,
    ) -> None:
        still = [plan for plan in plans if not plan.neighbours]
        if still:
            self._add_still(matrix, over, still, executor)
        for plan in plans:
            if plan.neighbours:
                self._add_chunks(matrix, plan, permutation, executor, to=plan.places(permutation))

    def _add_still(self, matrix: Tensor, over: Over, plans: Collection[Plan], executor: Executor | None) -> None:
        """Add what has no moving neighbour.

        Its sum is kept only where it saves products and will be wanted again, when neighbours have moved.
        """
        thin = [plan for plan in plans if plan.work < THIN]
        if thin:
            pairs = [self._operands({}, plan) for plan in thin]
            one, two = (torch.cat([flat(pair[which], self.dtype) for pair in pairs], 1) for which in (0, 1))
            add_product(matrix, one, two, executor)
        wide = [plan for plan in plans if plan.work >= THIN]
        if not wide:
            return
        total = self._still.get(over)
        if total is None:
            total = torch.zeros_like(matrix) if over in self._keeps_still else matrix
            for plan in wide:
                self._add_chunks(total, plan, {}, executor)
            if total is matrix:
                return
            self._still[over] = total
        matrix += total

    def _mend(
        self, over: Over, plans: Collection[Plan], kept: _Kept, now: dict[str, Tensor], executor: Executor | None
    ) -> bool:
        """Bring a kept matrix up to date; False where making it again is cheaper."""
        changed = {dim for dim, perm in now.items() if not torch.equal(perm, kept.at[dim])}
        if not changed:
            return True
        todo: list[tuple[Plan, Tensor, Tensor, Tensor]] = []
        whole = moved = 0
        for plan in plans:
            whole += plan.work
            if changed.isdisjoint(plan.neighbours):
                continue
            if plan.bound.index_dim in changed:
                return False
            old, new = plan.places(kept.at), plan.places(now)
            assert old is not None
            assert new is not None
            where = torch.nonzero(old != new).flatten()
            todo.append((plan, where, old[where], new[where]))
            moved += 2 * plan.work * len(where) // len(new)
        if moved > 2 * MENDED_SHARE * whole:
            return False
        for plan, where, old, new in todo:
            self._add_chunks(kept.matrix, plan, now, executor, at=where, to=new, less=old)
        kept.at = now
        kept.mends += 1
        self.mends[over] += 1
        return True

    def _add_chunks(
        self,
        matrix: Tensor,
        plan: Plan,
        permutation: Mapping[str, Tensor],
        executor: Executor | None,
        *,
        at: Tensor | None = None,
        to: Tensor | None = None,
        less: Tensor | None = None,
    ) -> None:
        """Add the product of A's places `at` and B's places `to` (without those at `less`), a part at a time."""
        x, y = self._operands(permutation, plan)
        at, to, less = (None if places is None else places.to(self.device) for places in (at, to, less))
        for a, b in chunks(x, y, at, to, self.dtype, less=less):
            add_product(matrix, a, b, executor)

    def _operands(self, permutation: Mapping[str, Tensor], plan: Plan) -> tuple[Tensor, Tensor]:
        """A's and B's piece, shape (n, places of the other moving sides, rest); B's not gathered yet."""
        key = source_key(permutation, plan.bound)
        a, b = plan.operand(self.problem.a[plan.bound.key]), plan.operand(self.problem.b[key])
        return a.to(self.device), b.to(self.device)


def _can_move(plans: list[Plan]) -> bool:
    """Whether the matrix is worth keeping: it is wanted again when a neighbour has moved."""
    return any(plan.neighbours for plan in plans)


def _is_partly_still(plans: list[Plan]) -> bool:
    """Whether a part of the matrix stays as it is while the rest has to be made again."""
    return _can_move(plans) and any(not plan.neighbours and plan.work >= THIN for plan in plans)


def _neighbours(plans: Collection[Plan], permutation: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {dim: permutation[dim] for plan in plans for dim in plan.neighbours if dim in permutation}
