"""Where is computed (`--device`), and what matching costs, counted from a layout alone.

torch is asked only where it may see a GPU.
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

from rebasin_cli.errors import UsageError
from rebasin_cli.pipeline.method_choice import MatchChoice
from rebasin_cli.process import load_torch
from rebasin_cli.spec import Layout

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


def matching_device(choice: MatchChoice, layout: Layout) -> str:
    """Where weights are matched: `auto` leaves small networks to the CPU, which is done before a GPU has begun.

    Raises:
        UsageError: as `resolve_device`.
    """
    small = choice.device == "auto" and not choice.looks_at_data and sweep_work(layout) < GPU_WORK
    return "cpu" if small else resolve_device(choice.device)


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
