"""Distillation: a merged network goes on from least squares, down to the answers of its members' ensemble.

No labels are looked at: what is gone down is the cross-entropy to the members' mean probabilities, or the squared
distance to their mean outputs. Normalisations keep the statistics that they have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]

RATE = 1e-3
"""Of Adam, at the first step; it falls to 0 along a cosine."""

EVERY, PATIENCE = 25, 10
"""Steps between two looks at the examples held apart, and how many looks without a better one end it.

The first steps, which are the largest, may lead away from a good start: of five looks some find nothing, where the last
of twelve do (four MLPs on digits: .1393 and .1330)."""

_KEPT = 1 << 26  # numbers of ensemble answers that are kept from one epoch to the next


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is distilled on.

    Attributes:
        run: the network's answer with these parameters on some inputs; gradients flow.
        seen, apart: batches of inputs, to learn from and to judge by.
        axis: of the answers that counts classes; None where they are no classes.
    """

    run: Callable[[Params, Any], Tensor]
    seen: Sequence[Any]
    apart: Sequence[Any]
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class Distilled:
    """The best parameters by the examples held apart, and the loss there at the start and at every look."""

    params: Params
    losses: tuple[float, ...]


def distil(
    start: Mapping[str, Tensor],
    free: Collection[str],
    members: Sequence[Params],
    weights: Sequence[float],
    lessons: Lessons,
    *,
    steps: int = 300,
    seed: int = 0,
    on_step: Callable[[int], None] = lambda _: None,
) -> Distilled:
    """Go down to the ensemble's answers with Adam.

    Args:
        start: where it begins, which is not changed, and which is returned where nothing is better.
        free: names of the parameters that move.
        weights: of the members; they sum to 1.
    """
    ensemble = _Ensemble(members, weights, lessons)
    held = {name: tensor.detach().clone() for name, tensor in start.items()}
    moving = {name: held[name].requires_grad_() for name in held if name in free}
    best = {name: tensor.detach().clone() for name, tensor in held.items()}
    losses = [_held_apart(best, lessons, ensemble)]
    if not moving or not math.isfinite(losses[0]):
        return Distilled(best, tuple(losses))
    optimizer = torch.optim.Adam(moving.values(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = _Order(len(lessons.seen), seed)
    since = 0
    for step in range(1, steps + 1):
        number = order.next()
        optimizer.zero_grad()
        _distance(lessons.run(held, lessons.seen[number]), ensemble.of(number), lessons.axis).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        on_step(1)
        if step % EVERY and step != steps:
            continue
        now = {name: tensor.detach() for name, tensor in held.items()}
        loss = _held_apart(now, lessons, ensemble)
        since = 0 if loss < min(losses) else since + 1
        if since == 0:
            best = {name: tensor.clone() for name, tensor in now.items()}
        losses.append(loss)
        if since == PATIENCE or not math.isfinite(loss):
            break
    return Distilled(best, tuple(losses))


class _Ensemble:
    """The members' mean answers, those to batches that are seen again kept as far as they go."""

    def __init__(self, members: Sequence[Params], weights: Sequence[float], lessons: Lessons) -> None:
        self._members, self._weights, self._lessons = members, weights, lessons
        self._kept: dict[int, Tensor] = {}
        self._numbers = 0

    def of(self, number: int) -> Tensor:
        """To a batch that is seen."""
        found = self._kept.get(number)
        if found is None:
            found = self.answer(self._lessons.seen[number])
            if self._numbers + found.numel() <= _KEPT:
                self._kept[number] = found
                self._numbers += found.numel()
        return found

    def answer(self, inputs: Any) -> Tensor:
        """To any batch: mean probabilities, or mean outputs."""
        axis = self._lessons.axis
        with torch.no_grad():
            answers = [self._lessons.run(member, inputs) for member in self._members]
            shares = answers if axis is None else [answer.softmax(axis) for answer in answers]
            parts = (weight * share for weight, share in zip(self._weights, shares, strict=True))
            return sum(parts, torch.zeros_like(shares[0]))


class _Order:
    """Batch after batch, in another random order in every epoch."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._generator = count, torch.Generator().manual_seed(seed)
        self._left: list[int] = []

    def next(self) -> int:
        """The number of the next batch."""
        self._left = self._left or torch.randperm(self._count, generator=self._generator).tolist()
        return self._left.pop()


def _distance(answers: Tensor, wanted: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return F.mse_loss(answers, wanted)
    return -(wanted * answers.log_softmax(axis)).sum(axis).mean()


def _held_apart(params: Params, lessons: Lessons, ensemble: _Ensemble) -> float:
    """The mean over the batches held apart."""
    with torch.no_grad():
        found = [
            float(_distance(lessons.run(params, inputs), ensemble.answer(inputs), lessons.axis))
            for inputs in lessons.apart
        ]
    return sum(found) / len(found)
