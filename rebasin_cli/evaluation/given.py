"""What a caller in Python hands over itself, where the command line names code that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # headers are judged without it
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class GivenNetwork:
    """A module in memory. It is copied before it is run.

    Attributes:
        name: what it is called in messages; inputs: what it can be run on, None if that is not known.
    """

    name: str
    module: nn.Module
    inputs: Any = None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, eq=False)
class GivenData:
    """Examples in memory: what a function that `--data` names would return."""

    examples: Any
    name: str = "examples in memory"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, eq=False)
class GivenLoss:
    """A function that judges a network by its tensors."""

    function: Callable[[Mapping[str, Tensor]], Any]
    name: str = "loss"

    def __str__(self) -> str:
        return self.name


NetworkName = str | GivenNetwork
"""`package.module:factory`, or the module itself."""
