"""What a run would cost (`--dry-run`): counted from headers, weighed with rates of a plain machine."""

from __future__ import annotations

from math import prod

from rebasin_cli.matching.resources import MATRICES, TENSORS, has_fast_solver, sweep_work
from rebasin_cli.pipeline.layouts import Pair
from rebasin_cli.report.document import PlanRecord
from rebasin_cli.spec import Layout

# Orders of magnitude of one core of a present-day machine. They only have to tell seconds from hours. Checked on a pair
# of one layer with the widths of a 7B LLaMA in bfloat16, 4000 tokens: 174 s and 2.08 GB planned, 125 s of one core and
# 2.18 GB taken.
_BYTES_PER_SECOND = 5e8  # read, digest and look for NaN
_FLOPS = 6e10  # float32 products, gathers included
_ASSIGNMENT = 1e-8  # seconds per n² of an exact assignment, compiled: 40 ms at 2048, 1.2 s at 11008
_SLOW_ASSIGNMENT = 2e-9  # seconds per n³ without a compiler: 0.3 s at 512, 17 s at 2048
_SWEEPS = 2  # an anchored pass and what is left after it; independent networks take more, but small ones
_IDLE_MEMORY = 300_000_000  # the interpreter with torch, before it has read anything


def estimate(
    pair: Pair, *, writes: int, targets: dict[str, str], matched: bool, passes: int, examples: int = 0, points: int = 0
) -> PlanRecord:
    """Bytes, memory and time.

    Args:
        writes: bytes of all outputs.
        matched: whether a matching is part of the run.
        passes: how often both inputs are read apart from matching.
        examples, points: size of a λ sweep; 0 without data.
    """
    both = pair.a.nbytes + pair.b.nbytes
    seconds = (both * passes + writes) / _BYTES_PER_SECOND
    if matched:
        seconds += matching_seconds(pair.layout)
    parameters = sum(prod(info.shape) for info in pair.a.infos.values())
    seconds += points * examples * 2 * parameters / _FLOPS
    memory = _IDLE_MEMORY + _matching_memory(pair)
    if points:
        memory += 3 * pair.a.nbytes
    return PlanRecord(
        reads=both * passes, writes=writes, targets=targets, peak_memory_bytes=memory, seconds=round(seconds, 2)
    )


def matching_seconds(layout: Layout) -> float:
    """Products of every sweep, and assignments: one for every pair of owners' units."""
    total = _SWEEPS * 2 * sweep_work(layout) / _FLOPS
    for name in layout.moving():
        n = layout.dims[name].size
        copies = prod(layout.owner_sizes(name)) ** 2
        each = _ASSIGNMENT * n**2 if has_fast_solver() else _SLOW_ASSIGNMENT * n**3
        total += _SWEEPS * copies * each
    return total


def _matching_memory(pair: Pair) -> int:
    """What is kept between steps, three of the largest tensor, and the largest similarity twice."""
    largest = max((info.nbytes for info in pair.b.infos.values()), default=0)
    units = [_units(pair.layout, name) for name in pair.layout.moving()]
    matrices = 4 * sum(n**2 for n in units)
    kept = min(TENSORS, pair.a.nbytes + pair.b.nbytes) + min(MATRICES, matrices)
    return kept + 3 * largest + 8 * max(units, default=0) ** 2


def _units(layout: Layout, name: str) -> int:
    """Units of a dim in all units of its owners."""
    return layout.dims[name].size * prod(layout.owner_sizes(name))
