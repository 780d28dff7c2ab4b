"""What code asks for in narrow types, in float64: a search compares to thirteen digits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WIDE = {
    **dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64),
    **dict.fromkeys((torch.complex64, torch.complex32), torch.complex128),
}
"""Types of floats, and what is computed in instead."""


def wide_type(value: Any) -> Any:
    """A type of narrow floats as the wide one; everything else as it is."""
    return WIDE.get(value, value) if isinstance(value, torch.dtype) else value


class InFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A cast to a narrower type that the code asks for becomes one to float64, and so do constants of the code.

    Attributes:
        needed: whether there was one that `Exact`, which costs less, does not see.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.needed = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler, three seconds for nothing: here nothing is compiled."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def wide(value: Any) -> Any:
            constant = type(value) is Tensor and value.dtype in WIDE and not func._schema.is_mutable
            wider = value.to(WIDE[value.dtype]) if constant else wide_type(value)
            self.needed = self.needed or wider is not value
            return wider

        return func(*map(wide, args), **{name: wide(value) for name, value in (kwargs or {}).items()})
