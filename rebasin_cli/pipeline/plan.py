"""What a run would cost (`--dry-run`): counted from headers, weighed with rates of a plain machine."""

from __future__ import annotations

from math import prod

from rebasin_cli.checkpoints import Checkpoint
from rebasin_cli.pipeline.binding import Pair
from rebasin_cli.report.document import PlanRecord
from rebasin_cli.spec import Layout

# Orders of magnitude of one core of a present-day machine. They only have to tell seconds from hours.
_BYTES_PER_SECOND = 5e8  # read, digest and look for NaN
_FLOPS = 2e10  # float32 products, gathers included
_ASSIGNMENT = 2e-9  # seconds per n³ of an exact assignment: 0.3 s at 512, 17 s at 2048
_SWEEPS = 8  # what weight matching takes until it converges, as a rule
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
    memory = _IDLE_MEMORY + _matching_memory(pair.layout, pair.b)
    if points:
        memory += 3 * pair.a.nbytes
    return PlanRecord(
        reads=both * passes, writes=writes, targets=targets, peak_memory_bytes=memory, seconds=round(seconds, 2)
    )


def matching_seconds(layout: Layout) -> float:
    """Similarities of every sweep (2·n·elements for each tensor in which a dim of n units stands) and assignments."""
    total = 0.0
    for name in layout.moving():
        n = layout.dims[name].size
        copies = prod(layout.owner_sizes(name)) ** 2 if layout.owner_sizes(name) else 1
        elements = sum(_elements(layout, key) for key in layout.users.get(name, ()))
        total += _SWEEPS * (2 * n * elements / _FLOPS + copies * _ASSIGNMENT * n**3)
    return total


def _elements(layout: Layout, key: str) -> int:
    return sum(prod(side.size for side in piece.sides) for piece in layout.tensors[key].pieces)


def _matching_memory(layout: Layout, checkpoint: Checkpoint) -> int:
    """Two of the largest tensor in float32 with a copy each, and the largest similarity in float32 and float64."""
    largest = max((prod(info.shape) for info in checkpoint.infos.values()), default=0)
    widest = max((layout.dims[name].size for name in layout.moving()), default=0)
    return 4 * 4 * largest + 12 * widest**2
