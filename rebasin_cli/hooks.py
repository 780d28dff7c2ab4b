"""Watching a network while it runs: what goes into its layers and what comes out, told to whoever wants to know.

Networks live above the solvers, so this is the one thing they share: whoever runs a network calls the taps, and a
solver that needs activations or corrects them is such a tap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with weights, as it is met while a network runs.

    Attributes:
        name: its tensors are `{name}.weight`, `{name}.bias`, `{name}.running_mean`, …
        kind: a `norm` scales and shifts each channel by its weight and bias; `other` modules, of which nothing is
            known, are met only if they are in `Taps.modules`.
        channels: the axis of its inputs and outputs that counts channels: 1 or −1.
        outputs: the axis of its weight that counts outputs; inputs are on the other one (1 or 0).
    """

    name: str
    kind: Literal["linear", "convolution", "norm", "other"]
    channels: int
    outputs: int = 0

    @property
    def weight(self) -> str:
        """Key of the weight."""
        return f"{self.name}.weight"

    @property
    def bias(self) -> str:
        """Key of the bias, which it need not have."""
        return f"{self.name}.bias"


class Taps:
    """Called by a running network; this one watches nothing and changes nothing.

    Attributes:
        modules: names of modules to be told of whatever they are, once they have made something.
    """

    modules: frozenset[str] = frozenset()

    def entering(self, layer: Layer, x: Tensor) -> None:
        """A layer is about to read `x`; its parameters have not been read yet."""

    def leaving(self, layer: Layer, y: Tensor) -> Tensor:
        """A layer has made `y`; what is returned goes on in its place."""
        return y


Run = Callable[[dict[str, Tensor], Taps], None]
"""Runs a network with these parameters, by the names it knows, over all examples, and calls the taps."""

PairRun = Callable[[Taps, Taps], None]
"""Runs both networks over all examples, batch by batch: A with the first taps, then B with the second ones."""


def per_channel(layer: Layer, x: Tensor) -> Tensor:
    """Activations with everything but the channels flattened: (observations, channels)."""
    return x.movedim(layer.channels, -1).flatten(0, -2)


def beside_channels(layer: Layer, values: Tensor, x: Tensor) -> Tensor:
    """A value for each channel, shaped to be combined with `x`."""
    return values if layer.channels == -1 else values.reshape(-1, *[1] * (x.dim() - 2))
