"""Similarity matrices of single dims, kept between visits and mended where their neighbours moved.

S[i, j] = Σ over pieces ⟨A's unit i, B's unit j with everything else aligned⟩ (Git Re-Basin, arXiv:2209.04836, §3.2).
Between two visits to a dim only some units of its neighbours have moved, and S changes only through them:
S += A[:, moved] · (B[:, new places] − B[:, old places])ᵀ. What has no moving neighbour is computed once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from rebasin_cli.matching.memory import Budget
from rebasin_cli.matching.parallel import add_product
from rebasin_cli.matching.terms import Block, block_keys
from rebasin_cli.permutation import gather_piece, owner_sides, piece_view, source_key
from rebasin_cli.spec import INDEX_SIDE, BoundTensor, Layout, Piece, Side

MENDED_SHARE = 0.3
"""Above this share of moved units a fresh product is cheaper than two gathers and a mend."""

MENDS = 12
"""Mends in a row before a matrix is made anew, so that float32 rounding does not pile up."""

THIN = 64
"""Operands with fewer columns than this are added up in one product: by themselves each costs a pass over S."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How one piece contributes: the side to solve for, the sides that move with other dims, and the rest.

    Attributes:
        number: which of the tensor's pieces it is.
        others: positions of the sides that move with other dims, and of their owners, in order.
        frame: the piece made of `others` alone, row-major: what gathers their flat places.
    """

    bound: BoundTensor
    number: int
    solved: int
    others: tuple[int, ...]
    frame: Piece

    @property
    def piece(self) -> Piece:
        """The piece itself."""
        return self.bound.pieces[self.number]

    @property
    def neighbours(self) -> tuple[str, ...]:
        """The other dims that it depends on."""
        dims = [str(self.piece.sides[at].dim) for at in self.others]
        return (*dims, self.bound.index_dim) if self.bound.index_dim else tuple(dims)

    @property
    def work(self) -> int:
        """Multiply-adds for each entry of S."""
        return prod(s.size for at, s in enumerate(self.piece.sides) if at != self.solved)


def plans_of(layout: Layout, block: Block, moving: Collection[str]) -> list[Plan]:
    """The plans of a block of one dim."""
    plans: list[Plan] = []
    for key in block_keys(layout, block):
        bound = layout.tensors[key]
        for number, piece in enumerate(bound.pieces):
            for solved in [at for at, side in enumerate(piece.sides) if side.dim == block.root]:
                others = _moving_sides(piece, solved, moving)
                plans.append(Plan(bound, number, solved, others, _frame(piece, others)))
    return plans


def _moving_sides(piece: Piece, solved: int, moving: Collection[str]) -> tuple[int, ...]:
    """Sides of other moving dims, and of their owners, whose units say which inner permutation holds."""
    found = {at for at, side in enumerate(piece.sides) if at != solved and side.dim in moving}
    found |= {owner for at in found for owner in owner_sides(piece, at) if owner != INDEX_SIDE}
    return tuple(sorted(found))


def _frame(piece: Piece, others: tuple[int, ...]) -> Piece:
    sides: list[Side] = []
    stride = prod(piece.sides[at].size for at in others)
    for at in others:
        side = piece.sides[at]
        stride //= side.size
        owner = side.owner
        if owner is not None and owner != INDEX_SIDE:
            owner = others.index(owner)
        sides.append(Side(side.dim, side.size, stride, owner))
    return Piece(0, tuple(sides))


@dataclass(slots=True)
class _Kept:
    """A matrix, the permutations of the neighbours at which it is right, and the plans it does not hold yet."""

    matrix: Tensor
    at: dict[str, Tensor]
    missing: list[Plan] = field(default_factory=list)
    mends: int = 0


@dataclass(slots=True)
class Similarities:
    """The similarity matrices of all blocks of one dim.

    Attributes:
        budget: for the matrices that are kept; those that do not fit are made anew at every visit.
        products, mends: how many matrices were made anew and how many mended.
    """

    layout: Layout
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    dtype: torch.dtype
    device: torch.device
    budget: Budget
    executor: Executor | None = None
    products: int = 0
    mends: int = 0
    _plans: dict[str, list[Plan]] = field(default_factory=dict)
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _still: dict[str, Tensor] = field(default_factory=dict)

    def plans(self, block: Block) -> list[Plan]:
        """The plans of a block, made once."""
        if block.root not in self._plans:
            self._plans[block.root] = plans_of(self.layout, block, frozenset(self.layout.moving()))
        return self._plans[block.root]

    def matrix(self, block: Block, permutation: Mapping[str, Tensor]) -> Tensor:
        """S (n, n) of a block at the present permutations of all others. Not to be modified."""
        plans = self.plans(block)
        now = _neighbours(plans, permutation)
        kept = self._kept.get(block.root)
        if kept is not None and kept.mends < MENDS:
            held = [plan for plan in plans if plan not in kept.missing]
            if self._mend(held, kept, now):
                self._add(kept.matrix, block.root, kept.missing, permutation)
                kept.missing = []
                return kept.matrix
        return self._fresh(block.root, plans, [], permutation)

    def partial(self, block: Block, permutation: Mapping[str, Tensor], plans: list[Plan]) -> Tensor:
        """S from some of the plans only; the next call of `matrix` adds the others."""
        missing = [plan for plan in self.plans(block) if plan not in plans]
        return self._fresh(block.root, plans, missing, permutation)

    def _fresh(self, root: str, plans: list[Plan], missing: list[Plan], permutation: Mapping[str, Tensor]) -> Tensor:
        kept = self._kept.pop(root, None)
        n = self.layout.dims[root].size
        matrix = torch.zeros(n, n, dtype=self.dtype, device=self.device) if kept is None else kept.matrix.zero_()
        self._add(matrix, root, plans, permutation)
        self.products += 1
        if kept is not None or self._take(matrix):
            self._kept[root] = _Kept(matrix, _neighbours([*plans, *missing], permutation), missing)
        return matrix

    def _add(self, matrix: Tensor, root: str, plans: list[Plan], permutation: Mapping[str, Tensor]) -> None:
        still = [plan for plan in plans if not plan.neighbours]
        if still:
            self._add_still(matrix, root, still)
        for plan in plans:
            if plan.neighbours:
                a, b = self._operands(plan, permutation)
                flat = _places(plan, permutation)
                moved = b if flat is None else _gathered(b, flat.to(b.device))
                self._add_product(matrix, a, moved)

    def _add_still(self, matrix: Tensor, root: str, plans: Collection[Plan]) -> None:
        """Add what has no moving neighbour.

        Its sum is kept only where it saves products and will be wanted again, when neighbours have moved.
        """
        thin = [plan for plan in plans if plan.work < THIN]
        if thin:
            operands = [self._operands(plan, {}) for plan in thin]
            one, two = (torch.cat([pair[which].flatten(1) for pair in operands], 1) for which in (0, 1))
            self._add_product(matrix, one, two)
        if len(thin) == len(plans):
            return
        total = self._still.get(root)
        if total is None:
            alone = len(plans) == len(self._plans[root])
            total = matrix if alone else torch.zeros_like(matrix)
            for plan in plans:
                if plan.work >= THIN:
                    a, b = self._operands(plan, {})
                    self._add_product(total, a, b)
            if alone:
                return
            if self._take(total):
                self._still[root] = total
        matrix += total

    def _mend(self, plans: Collection[Plan], kept: _Kept, now: dict[str, Tensor]) -> bool:
        """Bring a kept matrix up to date; False where making it anew is cheaper."""
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
            old, new = _places(plan, kept.at), _places(plan, now)
            assert old is not None
            assert new is not None
            where = torch.nonzero(old != new).flatten()
            todo.append((plan, where, old[where], new[where]))
            moved += 2 * plan.work * len(where) // len(new)
        if moved > 2 * MENDED_SHARE * whole:
            return False
        for plan, where, old, new in todo:
            a, b = self._operands(plan, now)
            where, old, new = where.to(a.device), old.to(a.device), new.to(a.device)
            difference = _gathered(b, new).sub_(_gathered(b, old))
            self._add_product(kept.matrix, _gathered(a, where), difference)
        kept.at = now
        kept.mends += 1
        self.mends += 1
        return True

    def _operands(self, plan: Plan, permutation: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A's and B's piece, shape (n, places of the other moving sides, rest); B's not gathered yet."""
        key = source_key(permutation, plan.bound)
        return self._operand(self.a[plan.bound.key], plan), self._operand(self.b[key], plan)

    def _operand(self, tensor: Tensor, plan: Plan) -> Tensor:
        """A view where the tensor's strides allow it."""
        view = piece_view(tensor.contiguous(), plan.piece)
        rest = [at for at in range(view.dim()) if at != plan.solved and at not in plan.others]
        n, places = plan.piece.sides[plan.solved].size, prod(plan.piece.sides[at].size for at in plan.others)
        view = view.permute(plan.solved, *plan.others, *rest).to(device=self.device, dtype=self.dtype)
        return view.reshape(n, places, -1)  # (n, places, rest)

    def _add_product(self, matrix: Tensor, a: Tensor, b: Tensor) -> None:
        add_product(matrix, a.flatten(1), b.flatten(1), self.executor)

    def _take(self, matrix: Tensor) -> bool:
        return self.budget.take(matrix.numel() * matrix.element_size())


def _gathered(operand: Tensor, places: Tensor) -> Tensor:
    """The operand (n, places, rest) at some of its places, copied in the order in which it lies in memory."""
    if operand.stride(1) > operand.stride(0):
        return operand.transpose(0, 1).index_select(0, places).transpose(0, 1)
    return operand.index_select(1, places)


def _neighbours(plans: Collection[Plan], permutation: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {dim: permutation[dim] for plan in plans for dim in plan.neighbours if dim in permutation}


def _places(plan: Plan, permutation: Mapping[str, Tensor]) -> Tensor | None:
    """For every flat place of the other moving sides in A, its place in B; None if there are none."""
    if not plan.others:
        return None
    sizes = [side.size for side in plan.frame.sides]
    flat = torch.arange(prod(sizes)).reshape(sizes)
    return gather_piece(flat, plan.frame, permutation, plan.bound.place).reshape(-1)
