"""What a network answers: the tensor among its outputs, and which axis of it counts classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from rebasin_cli.errors import ContentError


def answer_of(family: str, outputs: Any) -> Tensor:
    """The tensor that is judged: the output itself, its `logits`, or else the first tensor in it.

    Raises:
        ContentError: there is no tensor in it.
    """
    return named_answer(family, outputs)[1]


def named_answer(family: str, outputs: Any) -> tuple[str, Tensor, tuple[str, ...]]:
    """As `answer_of`, with its name and those of the tensors that are left out, where the name was not said.

    All names are empty where there was no choice: a tensor alone, or `logits`.
    """
    if isinstance(outputs, Tensor):
        return "", outputs, ()
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(logits, Tensor):
        return "", logits, ()
    found = list(_tensors(outputs, ""))
    if not found:
        raise ContentError(
            f"{family} returned {type(outputs).__name__}, which holds no logits",
            remedy="its forward returns a tensor, or an object, dict or tuple with one; or judge it with "
            "--loss package.module:function",
        )
    (name, answer), *others = found
    return (name, answer, tuple(other for other, _ in others)) if others else ("", answer, ())


def by_position(answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
    """Logits (questions, classes) and labels (questions,) of answers and the integer targets that fit them.

    Args:
        answers: (N, classes) for targets (N,); (N, positions…, classes) or (N, classes, positions…) for targets
            (N, positions…). Where both orders fit, tokens (N, T) have their classes last, images (N, H, W) first.

    Returns:
        None if the shapes do not fit.
    """
    axis = class_axis(answers, targets)
    return None if axis is None else (answers.movedim(axis, -1).flatten(0, -2), targets.flatten())


def class_axis(answers: Tensor, targets: Tensor) -> int | None:
    """The axis of answers that counts classes, 1 or −1, as `by_position` has it; None if the shapes do not fit."""
    if answers.dim() != targets.dim() + 1:
        return None
    last = answers.shape[:-1] == targets.shape
    first = (answers.shape[0], *answers.shape[2:]) == tuple(targets.shape)
    if first and not (last and targets.dim() == 2):
        return 1
    return -1 if last else None


def either_order(answers: Tensor, targets: Tensor) -> bool:
    """Whether classes could be first as well as last, by the shapes."""
    last = answers.shape[:-1] == targets.shape
    return targets.dim() > 1 and last and (answers.shape[0], *answers.shape[2:]) == tuple(targets.shape)


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    if isinstance(value, Mapping):
        parts: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", range(len(value)))
        parts = list(zip(names, value, strict=True))
    elif dataclasses.is_dataclass(value):
        parts = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    else:
        return
    for part, inner in parts:
        yield from _tensors(inner, f"{name}.{part}" if name else str(part))
