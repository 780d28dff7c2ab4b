"""Independent work through one executor that is handed in: starts, pairs of models, stripes of a product.

Threads serve by default, and the executor of a cluster can take their place. What is computed never depends on it:
work is cut the same way with and without one, and results are taken in the order of the work. Work that is one of
several gets no executor for its own parts: a pool whose workers all wait for the pool would wait for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from functools import partial
from itertools import islice
from typing import TypeVar

from torch import Tensor

STRIPE = 512
"""Rows of a product that one thread takes; fixed, because sums of other sizes differ in their last bits."""

T = TypeVar("T")


def in_order(
    tasks: Iterable[Callable[[], T]],
    executor: Executor | None,
    at_once: int,
    give_up: Callable[[], None] | None = None,
) -> Generator[T, None, None]:
    """The results of the tasks, in their order; tasks are asked for one by one, as late as possible.

    Args:
        executor: None does each task when its result is asked for.
        at_once: how many may be under way.
        give_up: tells those that are under way that their results are not wanted any more.

    Whatever ends it early, an exception of a task, Ctrl-C or a caller who closes it, it leaves none running.
    """
    if executor is None or at_once < 2:
        for task in tasks:
            yield task()
        return
    left = iter(tasks)
    order: deque[Future[T]] = deque()
    running: set[Future[T]] = set()
    try:
        while True:
            for task in islice(left, at_once - len(running)):
                future = executor.submit(task)
                order.append(future)
                running.add(future)
            while order and order[0].done():
                yield order.popleft().result()
            if not running:
                return
            running = wait(running, return_when=FIRST_COMPLETED).not_done
    except BaseException:
        if give_up:
            give_up()
        raise
    finally:
        wait([future for future in running if not future.cancel()])


def add_product(matrix: Tensor, a: Tensor, b: Tensor, executor: Executor | None = None) -> None:
    """matrix += a bᵀ in place, in stripes of rows; a (n, k), b (m, k), the same bits with any executor or none."""
    if len(a) <= STRIPE or a.device.type != "cpu":
        matrix.addmm_(a, b.T)
        return

    def stripe(at: int) -> None:
        matrix[at : at + STRIPE].addmm_(a[at : at + STRIPE], b.T)

    starts = range(0, len(a), STRIPE)
    for _ in in_order((partial(stripe, at) for at in starts), executor, len(starts)):
        pass
