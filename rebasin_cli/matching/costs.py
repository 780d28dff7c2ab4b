"""What matching costs, counted from a layout alone: no tensor is looked at, and nothing is imported that could."""

from __future__ import annotations

from importlib.util import find_spec

from rebasin_cli.spec import Layout


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
