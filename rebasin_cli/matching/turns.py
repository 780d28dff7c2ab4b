"""Whose turn it is in a first pass outwards from the sides that never move, and by what each block is solved in it.

What is not aligned yet says nothing, so a block is solved by the pieces whose other sides are aligned. Nor does a
piece say the same thing twice: where units were chosen by it, it speaks for the neighbours that they were chosen by,
right or wrong. So, while a neighbour rests on little, a block leaves it one of two pieces that tie them to each other:
the units of a residual stream that few inputs have placed are placed again after each of the first layers, by what
those were not chosen by. Noise that differs from piece to piece then averages out, where otherwise the first mistakes
would be what all that follows agrees on. Both halves of the rule are ours; the paper (arXiv:2209.04836, Algorithm 1)
begins at the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from rebasin_cli.matching.plans import Plan
from rebasin_cli.matching.terms import Block
from rebasin_cli.spec import Layout

HALF = 0.45
"""Share of the work of the pieces between two blocks that is enough for the later one: two tensors of one shape are
halves even where a norm or a bias stands beside one of them."""

ENOUGH = 2
"""A neighbour that rests on so many times what it could be left is left alone. From there on it is found about as
often without, and the blocks rather take all there is to them."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A block whose turn it is to be solved.

    Attributes:
        ready: the plans that it is solved by, None for all there is to it.
        is_whole: whether that is all, with everything else aligned.
        is_last: whether nothing that `ready` stands on moves after it.
    """

    block: Block
    ready: tuple[Plan, ...] | None = None
    is_whole: bool = True
    is_last: bool = True


def anchored_turns(
    layout: Layout,
    neighbours: Mapping[Block, Set[str]],
    plans: Mapping[str, Sequence[Plan]],
) -> list[Turn]:
    """The turns of a first pass. The next block is always the one of whose work the largest share is already aligned.

    Args:
        neighbours: all blocks, in the order that decides between equals, with the roots of those that share a tensor.
        plans: by the root of their block. Blocks without (quadratic ones, and experts) are solved as they are when
            their turn comes.
    """
    order = _Order(layout, neighbours, plans)
    waiting = {block.root: block for block in neighbours}
    while waiting:
        share = {root: order.aligned_share(root) for root in waiting}
        order.add(waiting.pop(max(waiting, key=lambda root: share[root])))
    after: set[str] = set()
    turns: list[Turn] = []
    for turn in reversed(order.turns):
        touched = {root for plan in turn.ready or () for root in order.others(plan)} | {turn.block.root}
        turns.append(replace(turn, is_last=after.isdisjoint(touched)))
        after.add(turn.block.root)
    return turns[::-1]


@dataclass(slots=True)
class _Order:
    """The turns so far.

    Attributes:
        done: roots of the blocks that have had a turn, or that nothing can be said about.
        evidence: the plans that a block was solved by last, by its root.
    """

    layout: Layout
    neighbours: Mapping[Block, Set[str]]
    plans: Mapping[str, Sequence[Plan]]
    turns: list[Turn] = field(default_factory=list)
    done: dict[str, Block] = field(default_factory=dict)
    evidence: dict[str, list[Plan]] = field(default_factory=dict)

    def others(self, plan: Plan) -> set[str]:
        """Roots of the other blocks that the plan depends on."""
        return {self.layout.root(dim) for dim in plan.neighbours}

    def aligned_share(self, root: str) -> float:
        """Share of the block's work whose other sides are aligned, 0 to 1."""
        whole = _work(self.plans.get(root, ()))
        return _work(self._ready(root)) / whole if whole else 0.0

    def add(self, block: Block) -> None:
        """The block's turn, and that of each neighbour which it leaves something."""
        root = block.root
        ready = self._ready(root)
        self.done[root] = block
        if root not in self.plans:
            self.turns.append(Turn(block, None, self.done.keys() >= self.neighbours[block]))
        elif ready:
            left = self._left(ready)
            self._solve(block, [plan for plan in ready if plan not in left])
            for neighbour in dict.fromkeys(root for plan in left for root in self.others(plan)):
                more = [theirs for theirs in left.values() if theirs in self.plans[neighbour]]
                self._solve(self.done[neighbour], [*self.evidence[neighbour], *more])

    def _solve(self, block: Block, ready: list[Plan]) -> None:
        self.evidence[block.root] = ready
        self.turns.append(Turn(block, tuple(ready), len(ready) == len(self.plans[block.root])))

    def _ready(self, root: str) -> list[Plan]:
        return [plan for plan in self.plans.get(root, ()) if self.done.keys() >= self.others(plan)]

    def _left(self, ready: Sequence[Plan]) -> dict[Plan, Plan]:
        """What a block leaves its neighbours, and what it is to them.

        Of the pieces between a matrix of the block and a neighbour that rests on little, it is the lesser half.
        """
        between: dict[tuple[tuple[str, ...], str], list[Plan]] = {}
        for plan in ready:
            others = self.others(plan)
            if len(others) == 1 and others <= self.evidence.keys():
                between.setdefault((plan.dims, others.pop()), []).append(plan)
        left: dict[Plan, Plan] = {}
        for (_, neighbour), plans in between.items():
            kept = 0
            for plan in sorted(plans, key=lambda plan: -plan.work):
                if kept < HALF * _work(plans):
                    kept += plan.work
                    continue
                theirs = next(p for p in self.plans[neighbour] if (p.bound, p.number) == (plan.bound, plan.number))
                if _work(p for p in self.evidence[neighbour] if p.dims == theirs.dims) < ENOUGH * theirs.work:
                    left[plan] = theirs
        return left


def _work(plans: Iterable[Plan]) -> int:
    return sum(plan.work for plan in plans)
