"""What matching may use: memory for tensors and similarities that are kept, an executor for independent work, a device.

Two things are worth keeping between visits. The tensors of a lazy source: they are read once instead of at every
visit, and the result does not depend on it. And similarity matrices, which spares products: mended ones differ in
their last bits from ones made again, so the number that is kept must not depend on the machine.

Independent work (starts, pairs of models, stripes of a product) goes through one executor that is handed in. Threads
serve by default, and the executor of a cluster can take their place. What is computed never depends on it: work is cut
the same way with and without one, and results are taken in the order of the work. Work that is one of several gets no
executor for its own parts: a pool whose workers all wait for the pool would wait for ever.

Devices are settled from headers: torch is asked for one only where it may see a GPU.
"""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from threading import Lock, get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from rebasin_cli.errors import UsageError
from rebasin_cli.process import load_torch
from rebasin_cli.spec import Layout

if TYPE_CHECKING:
    from torch import Tensor


MATRICES = 1 << 28
"""Bytes of similarity matrices that are kept if nothing is said (256 MiB)."""

TENSORS = 1 << 28
"""Bytes of tensors that are kept if nothing is said (256 MiB), but at most this `SHARE` of what is free. Reading a
tensor again costs much compared with the products of a few hundred units, and little with those of thousands."""

SHARE = 0.125

_UNKNOWN = 1 << 30


@dataclass(slots=True)
class Budget:
    """Bytes that are left for keeping things."""

    left: int

    def take(self, size: int) -> bool:
        """Whether `size` bytes were left; they are not any more."""
        if size > self.left:
            return False
        self.left -= size
        return True


def budgets(memory: int | None) -> tuple[Budget, Budget]:
    """For tensors and for matrices, half of `memory` bytes each; None leaves both small compared with a large model."""
    if memory is None:
        return Budget(min(TENSORS, int(SHARE * free_memory()))), Budget(MATRICES)
    return Budget(memory - memory // 2), Budget(memory // 2)


def free_memory() -> int:
    """Bytes that programs can still have, caches of files included; a guess of 1 GiB where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return _UNKNOWN


class CachedTensors(Mapping[str, "Tensor"]):
    """A lazy source whose tensors stay once they have been read, as far as the budget goes.

    What came first stays: every sweep goes through all tensors in the same order, where dropping the oldest would
    drop each tensor just before it is wanted again.

    Several threads may read at once; each has its time counted by itself.

    Args:
        wide: gives real numbers in float64.
    """

    def __init__(self, source: Mapping[str, Tensor], budget: Budget, *, wide: bool = False) -> None:
        self._source = source
        self._budget = budget
        self.wide = wide
        self._kept: dict[str, Tensor] = {}
        self._lock = Lock()
        self._seconds: dict[int, float] = {}

    @property
    def seconds(self) -> float:
        """Wall time spent in the source, in all threads."""
        return sum(self._seconds.values())

    @property
    def seconds_here(self) -> float:
        """Wall time spent in the source by the thread that asks."""
        return self._seconds.get(get_ident(), 0.0)

    def __getitem__(self, key: str) -> Tensor:
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        began = perf_counter()
        tensor = self._source[key]
        if self.wide and tensor.is_floating_point():
            tensor = tensor.double()
        self._seconds[get_ident()] = self.seconds_here + perf_counter() - began
        with self._lock:
            if key not in self._kept and self._budget.take(tensor.numel() * tensor.element_size()):
                self._kept[key] = tensor
        return tensor

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(CachedTensors, wide=self.wide), (self._source, self._budget)

    def __contains__(self, key: object) -> bool:
        return key in self._source

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


def keep_read(source: Mapping[str, Tensor], budget: Budget) -> Mapping[str, Tensor]:
    """The source with a cache, unless it lies in memory or has one."""
    return source if isinstance(source, dict | CachedTensors) else CachedTensors(source, budget)


def keep_wide(source: Mapping[str, Tensor], budget: Budget) -> Mapping[str, Tensor]:
    """The source in float64 with a cache, unless it has one."""
    return source if isinstance(source, CachedTensors) and source.wide else CachedTensors(source, budget, wide=True)


def reading_seconds(*sources: Mapping[str, Tensor]) -> float:
    """Wall time that has been spent in reading through caches, in all threads."""
    return sum(source.seconds for source in sources if isinstance(source, CachedTensors))


def working_clock(*sources: Mapping[str, Tensor]) -> float:
    """Seconds on a clock that stands still while the thread that asks reads through caches."""
    return perf_counter() - sum(source.seconds_here for source in sources if isinstance(source, CachedTensors))


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


GPU_WORK = 1 << 33
"""Multiply-adds of a sweep from which on a GPU is worth it: a core does as many while a CUDA context is being made."""

_FOR_GPUS = re.compile(r"^(?:cuda|hip)\b[^=\n]*=\s*['\"]", re.MULTILINE)  # in torch's version.py; None for the CPU


def require_device(name: str) -> None:
    """Refuse a device that is not there; `auto` is one in any case.

    Raises:
        UsageError: as `resolve_device`.
    """
    if name == "cuda":
        resolve_device(name)


def resolve_device(name: str) -> str:
    """`auto` is CUDA where there is some.

    Raises:
        UsageError: `cuda` was asked for and is not there.
    """
    if name == "cpu" or (name == "auto" and not _may_see_gpu()):
        return "cpu"
    load_torch()
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("--device cuda: torch sees no CUDA device", remedy="leave --device away, or use --device cpu")
    return "cuda" if available else "cpu"


def _may_see_gpu() -> bool:
    """Whether torch was built for GPUs, or has been loaded, so that asking it costs nothing."""
    if "torch" in sys.modules:
        return True
    found = find_spec("torch")
    try:
        folder = Path((found.submodule_search_locations or [""])[0]) if found else Path()
        return _FOR_GPUS.search((folder / "version.py").read_text(encoding="utf-8")) is not None
    except (OSError, ValueError):
        return True


def sweep_work(layout: Layout) -> int:
    """Multiply-adds of one product for every moving side: what a sweep takes if nothing is kept."""
    moving = set(layout.moving())
    return sum(
        side.size * piece.elements
        for bound in layout.tensors.values()
        if bound.section == "tensors"
        for piece in bound.pieces
        for side in piece.sides
        if side.dim in moving
    )


def has_fast_solver() -> bool:
    """Whether the compiled solver of assignments was built."""
    return find_spec("rebasin_cli.matching.assignment._lazy_jv") is not None
