"""How many threads work: `--threads`, torch's own, and the pool that independent work goes through."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch


def resolve_threads(wanted: int | None) -> int:
    """The number of threads, which from now on is torch's own, too; by default the cores that we may use, or what
    OMP_NUM_THREADS says."""
    if wanted is not None:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


@contextmanager
def pool(threads: int) -> Iterator[Executor | None]:
    """The executor of a match, None for one thread. Inside it torch has one thread by itself.

    Products that torch shares out differ in their last bits with the number of threads, and for small networks
    sharing out costs more than the product. What is independent, and stripes of large products, goes through the
    executor instead, and the result is the same for any number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if threads < 2:
            yield None
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="rebasin") as executor:
            yield executor
    finally:
        torch.set_num_threads(before)
