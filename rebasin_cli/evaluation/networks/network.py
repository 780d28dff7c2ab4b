"""A network as a value: a pure function of a state dict and inputs, and what it expects of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.inputs import Inputs
from rebasin_cli.hooks import Layer, Taps

Params = Mapping[str, Tensor]
Forward = Callable[[Params, Tensor], Tensor]


Answers = Literal["example", "next token", "masked token"]
"""What a network is asked: the class of an example, or tokens of a text, so that its loss is one per token."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class HasShape(Protocol):
    """What a builder needs to know of a tensor, such as `TensorInfo`."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class Watched(dict[str, Tensor]):
    """Parameters whose layers call taps when they run."""

    def __init__(self, params: Params, taps: Taps) -> None:
        super().__init__(params)
        self.taps = taps


def entering(params: Params, layer: Layer, x: Tensor) -> None:
    """Tell whoever watches what a layer is about to read."""
    if isinstance(params, Watched):
        params.taps.entering(layer, x)


def leaving(params: Params, layer: Layer, y: Tensor) -> Tensor:
    """Tell whoever watches what a layer has made, and go on with the answer."""
    return params.taps.leaving(layer, y) if isinstance(params, Watched) else y


def read_tensor(state: Mapping[str, Tensor], key: str) -> Tensor:
    """A tensor that a network reads.

    Raises:
        ContentError: the state has none of that name (a network that is merged with others may lack one).
    """
    try:
        return state[key]
    except KeyError:
        raise ContentError(
            f"there is no {key} of the shape that the network reads",
            remedy="--eval-command judges every model as a file of its own",
        ) from None


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network without weights, for evaluation: dropout is off, BatchNorm uses its running statistics.

    Attributes:
        family: name of the spec it was built for.
        shapes: the tensors it reads, by the names it knows them under (without a wrapper's prefix).
        prefix: what stands before those names in the state dicts it is given.
        forward: (parameters by those names, inputs) → answers (N, classes).
        reads: "vectors" (N, features) or "images" (N, channels, height, width).
        width: number of features or channels of one input.
        classes: number of logits.
        answers: what it is asked.
        assumptions: what shapes cannot tell and was taken for granted, with the option that says otherwise.
        spelled: name → key, for those that the state dicts do not have under the prefix and the name.
    """

    family: str
    shapes: Mapping[str, tuple[int, ...]]
    prefix: str
    forward: Forward
    reads: Literal["vectors", "images"]
    width: int
    classes: int
    assumptions: tuple[str, ...] = ()
    answers: Answers = "example"
    spelled: Mapping[str, str] = field(default_factory=dict)

    def load(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The tensors it reads, on `device`, all in one dtype: float64 where any is float64, else float32.

        Half precision is a way to store weights: evaluating in it would measure its rounding instead.
        """
        params = {name: read_tensor(state, self.keys(name)[0]).to(device) for name in self.shapes}
        wide = any(tensor.dtype == torch.float64 for tensor in params.values())
        return {name: tensor.to(torch.float64 if wide else torch.float32) for name, tensor in params.items()}

    def keys(self, name: str) -> tuple[str, ...]:
        """The keys of the checkpoint that hold a tensor: one here."""
        return (self.spelled.get(name, self.prefix + name),)

    @property
    def tied(self) -> tuple[tuple[str, ...], ...]:
        """The names that stand for one tensor: none here."""
        return ()

    def trainable(self) -> tuple[str, ...]:
        """The names of what is learnt by gradients: all but running statistics."""
        return tuple(name for name in self.shapes if name.rpartition(".")[2] not in _STATISTICS)

    def apart(self) -> Network:
        """The same network, which may run while this one does."""
        return self

    def modules(self) -> tuple[str, ...]:
        """Everything that taps can be told of: its layers."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.shapes))

    def logits(self, params: Params, inputs: Tensor, taps: Taps | None = None) -> Tensor:
        """Logits (N, classes) of `inputs` (N, …), given tensors from `load`; in their dtype and on their device."""
        first = next(iter(params.values()))
        if taps is not None:
            params = Watched(params, taps)
        return self.forward(params, self.shape_inputs(inputs).to(device=first.device, dtype=first.dtype))

    def outputs(self, params: Params, inputs: Inputs, taps: Taps | None = None) -> Tensor:
        """As `logits`."""
        assert isinstance(inputs, Tensor)  # seen to when examples are checked
        return self.logits(params, inputs, taps)

    def __call__(self, state: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Logits of `inputs` under a state dict with the keys and dtypes of a checkpoint."""
        return self.logits(self.load(state), inputs)

    def shape_inputs(self, inputs: Tensor) -> Tensor:
        """A view of `inputs` as the network reads them: flattened, or with the one channel of grey images."""
        if self.reads == "vectors":
            return inputs.flatten(1)  # (N, features)
        return inputs.unsqueeze(1) if inputs.ndim == 3 and self.width == 1 else inputs  # (N, C, H, W)
