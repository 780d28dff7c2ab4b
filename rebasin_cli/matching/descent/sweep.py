"""Coordinate descent on blocks: the present permutations, what may still gain something, and whose turn it is.

A first pass goes outwards from the sides that never move. What is not aligned yet says nothing, so that each block is
solved once, by the pieces whose other sides are aligned. The paper (arXiv:2209.04836, Algorithm 1) begins at the
identity instead.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import closing
from dataclasses import dataclass, field

import torch

from rebasin_cli.matching.descent.step import Step, Steps
from rebasin_cli.matching.problem import Problem, Stop, StopMatching
from rebasin_cli.matching.resources import Budget, working_clock
from rebasin_cli.matching.similarity.blocks import Block, blocks, neighbours_of, product_of_pieces
from rebasin_cli.matching.similarity.contributions import Forms, Plan
from rebasin_cli.matching.similarity.matrices import Similarities
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout

RELATIVE_GAIN = 1e-7
"""A step counts as progress if it raises a block's value by more than this share of it: in float32 the sums of
one step repeat themselves to about 1e-7, and smaller gains would let it cycle between equal solutions."""

SMALL_STEP = 1 << 24
"""Multiply-adds of a step that is not worth another thread."""

LARGE_STEP = 4096
"""Rows of a matrix from which on a step has all threads for its product: several at a time would take their memory
several times over."""

AHEAD = 16
"""Turns that are looked for at a time among those that need not wait."""

OnVisit = Callable[[int, float], None]


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


@dataclass(slots=True)
class Descent:
    """The present permutations and the blocks that may still gain something.

    Attributes:
        executor: takes steps of blocks that share no tensor side by side; the result does not depend on it.
        open: roots of blocks to be solved: never visited yet, or a neighbour changed since.
        seconds, solvers, gap: what `MatchResult` reports.
        beside: see `Steps`.
    """

    problem: Problem
    permutation: Permutation
    dtype: torch.dtype
    device: torch.device
    budget: Budget
    executor: Executor | None = None
    seconds: dict[str, float] = field(default_factory=lambda: {"similarity": 0.0, "assignment": 0.0, "objective": 0.0})
    solvers: dict[str, int] = field(default_factory=dict)
    gap: float | None = None
    beside: Mapping[str, Forms] = field(default_factory=dict)
    blocks: tuple[Block, ...] = field(init=False)
    open: set[str] = field(init=False)
    _steps: Steps = field(init=False)
    _neighbours: dict[str, set[str]] = field(init=False)

    def __post_init__(self) -> None:
        layout = self.problem.layout
        self.blocks = blocks(layout)
        self.open = {block.root for block in self.blocks}
        self._neighbours = neighbours_of(layout, self.blocks)
        self._steps = Steps(Similarities(self.problem, self.dtype, self.device, self.budget), self.blocks, self.beside)

    def objective(self, permutation: Permutation | None = None) -> float:
        """⟨A, π(B)⟩ at a permutation, by default the present one, from the tensors."""
        began = self._clock()
        permutation = self.permutation if permutation is None else permutation
        value = self.problem.objective(permutation, None, self.executor)
        self.seconds["objective"] += self._clock() - began
        return value

    def sweep(self, visits: Sequence[Block], on_visit: OnVisit | None = None) -> tuple[float, Stop | None]:
        """Visit blocks in order, each held against what those before it have found.

        Args:
            on_visit: called after every visit with the number of visits and what they gained; it may raise
                `StopMatching`.

        Returns:
            The gain of all, and why it ended early if it did.
        """
        gains = [0.0] * len(visits)
        with closing(self._take([Turn(block) for block in visits])) as steps:
            try:
                for done, (place, step) in enumerate(steps, start=1):
                    if step is not None:
                        gains[place] = self._accept(visits[place], step)
                    if on_visit:
                        on_visit(done, sum(gains))
            except StopMatching as wish:
                return sum(gains), wish.stop
        return sum(gains), None

    def anchor(self) -> float:
        """A first pass outwards from the sides that never move (see `anchored_turns`); the objective that it reaches.

        What a piece is worth is known when the last of its dims has been solved, so that the objective needs no pass
        of its own over these pieces.
        """
        of = self._steps.similarities
        plans = {block.root: of.plans(block) for block in self.blocks if self._steps.has_matrices(block)}
        neighbours = {block: self._neighbours[block.root] for block in self.blocks}
        turns = anchored_turns(self.problem.layout, neighbours, plans)
        values = [0.0] * len(turns)
        known: set[tuple[str, int]] = set()
        with closing(self._take(turns)) as steps:
            for place, step in steps:
                turn = turns[place]
                if turn.ready is None:
                    if step is not None:
                        self._accept(turn.block, step)
                else:
                    assert step is not None
                    self._move(turn.block, step)
                    self._count(step)
                    values[place] = step.after
                    known.update((plan.bound.key, plan.number) for plan in turn.ready)
                if not turn.is_whole:
                    self.open.add(turn.block.root)
        began = self._clock()
        rest = product_of_pieces(self.problem, self.permutation, known)
        self.seconds["objective"] += self._clock() - began
        return sum(values) + rest

    def _take(self, turns: Sequence[Turn]) -> Generator[tuple[int, Step | None], None, None]:
        """Place and outcome of every turn, as each ends; None for a block that was not open. The caller accepts it.

        One that shares no tensor with those before it that have not ended yet need not wait for them: it finds what
        it would have found after them. So the result is that of one turn after the other.
        """
        waiting = dict(enumerate(turns))
        running: dict[Future[Step], int] = {}
        try:
            while waiting or running:
                free = self._free(turns, waiting, running.values())
                for place in free:
                    turn = waiting[place]
                    is_open = turn.ready is not None or turn.block.root in self.open
                    if is_open and (running or len(free) > 1) and self._is_for_a_thread(turn):
                        assert self.executor is not None
                        self.open.discard(turn.block.root)
                        running[self.executor.submit(self._solve, turn, self.permutation)] = place
                    elif not running or not is_open or self._is_small(turn):
                        self.open.discard(turn.block.root)
                        yield place, self._solve(turn, self.permutation, self.executor) if is_open else None
                    else:
                        continue
                    del waiting[place]
                if running:
                    ended = wait(running, return_when=FIRST_COMPLETED).done
                    for future in sorted(ended, key=running.__getitem__):
                        yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()
            wait(running)

    def _free(self, turns: Sequence[Turn], waiting: Mapping[int, Turn], running: Iterable[int]) -> list[int]:
        """Places of the next turns that need not wait for any before them, in order."""
        if self.executor is None:
            return [next(iter(waiting))]
        busy = {turns[place].block.root for place in running}
        free: list[int] = []
        for place, turn in waiting.items():
            root = turn.block.root
            if root not in busy and self._neighbours[root].isdisjoint(busy):
                free.append(place)
            busy.add(root)
            if len(free) == AHEAD:
                break
        return free

    def _is_for_a_thread(self, turn: Turn) -> bool:
        if self.executor is None or not self._steps.has_matrices(turn.block) or self._is_small(turn):
            return False
        return max(plan.size for plan in self._steps.similarities.plans(turn.block)) <= LARGE_STEP

    def _is_small(self, turn: Turn) -> bool:
        if not self._steps.has_matrices(turn.block):
            return False  # its work is not known
        plans = turn.ready or self._steps.similarities.plans(turn.block)
        return sum(plan.work * plan.size**2 for plan in plans) < SMALL_STEP

    def _solve(self, turn: Turn, permutation: Permutation, executor: Executor | None = None) -> Step:
        if turn.ready is None:
            return self._steps.solve(turn.block, permutation, executor)
        return self._steps.anchored(turn.block, permutation, turn.ready, executor)

    def _accept(self, block: Block, step: Step) -> float:
        """Keep what a step has found if it is better; the gain (0.0 if it is not)."""
        gain = step.after - step.before
        if gain <= RELATIVE_GAIN * max(abs(step.before), abs(step.after)):
            gain = 0.0
        else:
            self._move(block, step)
        self._count(step)
        return gain

    def _move(self, block: Block, step: Step) -> None:
        self.permutation = self.permutation.replace(step.found)
        self.open |= self._neighbours[block.root]
        if self._steps.may_find_more(block):
            self.open.add(block.root)

    def _count(self, step: Step) -> None:
        for phase, spent in step.seconds.items():
            self.seconds[phase] += spent
        for solver, count in step.solvers.items():
            self.solvers[solver] = self.solvers.get(solver, 0) + count
        if step.gap is not None:
            self.gap = max(self.gap or 0.0, step.gap)

    def _clock(self) -> float:
        """Seconds that were not spent in reading."""
        return working_clock(self.problem.a, self.problem.b)
