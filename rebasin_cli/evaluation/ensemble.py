"""The answers of several networks taken together: what one gives up where they are merged into one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.answers import answer_of, class_axis
from rebasin_cli.evaluation.losses import Loss


def averaged(family: str, outputs: Sequence[Any], weights: Sequence[float], targets: Tensor, loss: Loss) -> Any:
    """The mean output of several networks on one batch; where answers are classes, of their probabilities.

    Args:
        weights: of the networks; they sum to 1.

    Returns:
        What `loss` takes: as the networks return it, or the tensor that is judged. Of probabilities the logarithms,
        which are logits, too.

    Raises:
        ContentError: outputs are of a kind that has no mean.
    """
    if len(outputs) == 1:
        return outputs[0]
    if loss.whole and not all(isinstance(output, Tensor) for output in outputs):
        return _mean(outputs, weights)
    answers = [answer_of(family, output).double() for output in outputs]
    axis = class_axis(answers[0], targets) if loss.classes else None
    if axis is None:
        return _mean(answers, weights)
    shares = [a.log_softmax(axis) + log(weight) for a, weight in zip(answers, weights, strict=True)]
    return torch.stack(shares).logsumexp(0)


def _mean(values: Sequence[Any], weights: Sequence[float]) -> Any:
    """The mean of every tensor of floats in nested values; of everything else the first."""
    first = values[0]
    if isinstance(first, Tensor):
        if not first.is_floating_point():
            return first
        return sum((weight * value for weight, value in zip(weights, values, strict=True)), torch.zeros_like(first))
    if isinstance(first, Mapping):
        return type(first)(**{key: _mean([value[key] for value in values], weights) for key in first})
    if isinstance(first, (list, tuple)):
        parts = [_mean(part, weights) for part in zip(*values, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in dataclasses.fields(first)]
        changed = {name: _mean([getattr(value, name) for value in values], weights) for name in names}
        return dataclasses.replace(first, **changed)
    if first is None or isinstance(first, (bool, int, float, str)):
        return first
    raise ContentError(f"the networks return {type(first).__name__}, of which there is no mean")
