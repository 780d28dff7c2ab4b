"""Align and merge neural networks by permuting their hidden units (Git Re-Basin, arXiv:2209.04836).

From Python: `import rebasin_cli as rebasin`, then `rebasin.align(a, b)`; see `rebasin_cli.api`. What is public is
loaded when it is first asked for, as the commands answer without it; `__init__.pyi` tells its types.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

__all__ = [
    "Alignment",
    "Applied",
    "ContentError",
    "GateError",
    "Inspection",
    "Interpolation",
    "ManyAligned",
    "Merge",
    "Proof",
    "RebasinError",
    "RebasinWarning",
    "Repaired",
    "Spec",
    "SystemFailure",
    "UnitPermutation",
    "UsageError",
    "align",
    "align_many",
    "apply",
    "derive",
    "inspect",
    "interpolate",
    "lerp",
    "merge",
    "prove",
    "repair",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("rebasin_cli.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
