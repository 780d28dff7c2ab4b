"""The order of a first pass outwards from the sides that never move, and what each block is solved by in it.

What is not aligned yet says nothing, so that each block is solved once, by the pieces whose other sides are aligned.
The paper (arXiv:2209.04836, Algorithm 1) begins at the identity instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from rebasin_cli.matching.similarity.blocks import Block
from rebasin_cli.matching.similarity.contributions import Plan
from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class Turn:
    """A block whose turn it is to be solved.

    Attributes:
        ready: the plans that it is solved by, None for all there is to it.
        is_whole: whether that is all, with everything else aligned.
    """

    block: Block
    ready: tuple[Plan, ...] | None = None
    is_whole: bool = True


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
    done: set[str] = set()
    waiting = {block.root: block for block in neighbours}

    def ready(root: str) -> list[Plan]:
        return [plan for plan in plans.get(root, ()) if done.issuperset(map(layout.root, plan.neighbours))]

    def aligned_share(root: str) -> float:
        whole = _work(plans.get(root, ()))
        return _work(ready(root)) / whole if whole else 0.0

    turns = []
    while waiting:
        block = waiting.pop(max(waiting, key=aligned_share))
        by = ready(block.root)
        done.add(block.root)
        if block.root not in plans:
            turns.append(Turn(block, None, done >= neighbours[block]))
        elif by:
            turns.append(Turn(block, tuple(by), len(by) == len(plans[block.root])))
    return turns


def _work(plans: Iterable[Plan]) -> int:
    return sum(plan.work for plan in plans)
