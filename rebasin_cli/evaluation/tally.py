"""What the answers to all batches are worth together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rebasin_cli.evaluation.answers import answer_of, by_position
from rebasin_cli.evaluation.data import IGNORED
from rebasin_cli.evaluation.losses import Loss
from rebasin_cli.evaluation.metrics import Metric, collect
from rebasin_cli.evaluation.scores import Scores


class Tally:
    """Sums loss, right answers and metrics over batches, in float64.

    Args:
        scale: by which logits are multiplied before they are judged; the temperature is one over it. None: as they are.
    """

    def __init__(self, family: str, loss: Loss, metrics: Sequence[Metric], scale: float | None = None) -> None:
        self.family, self.loss, self.metrics, self.scale = family, loss, metrics, scale
        self.total: Tensor | float = 0.0
        self.right: Tensor | int = 0
        self.questions = self.asked = 0

    def add(self, outputs: Any, targets: Tensor) -> None:
        """Take the outputs for a batch."""
        loss, answers = self.loss, None
        if self.metrics or loss.classes or not loss.whole:
            answers = answer_of(self.family, outputs).double()
            if self.scale is not None:
                answers = answers * self.scale
        found, count = loss.total(outputs if loss.whole else answers, targets)
        self.total = self.total + found.double()
        self.questions += count
        if answers is None:
            return
        for metric in self.metrics:
            metric.add(answers, targets)
        if loss.classes:
            correct, count = _correct(answers, targets)
            self.right = self.right + correct
            self.asked += count

    def scores(self) -> Scores:
        """Means over all questions (examples, or positions that have a label)."""
        mean = float(self.total) / self.questions
        metrics = collect(self.metrics, mean)
        if self.scale is not None:
            metrics["temperature"] = 1 / self.scale
        bins = next((bins for metric in self.metrics if (bins := metric.reliability())), ())
        return Scores(mean, int(self.right) / self.asked if self.asked else math.nan, metrics, bins)


def _correct(answers: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """How many questions are answered right, and how many there are."""
    found = by_position(answers, targets)
    assert found is not None  # seen to before
    logits, labels = found
    # argmax takes a NaN for the largest: such an example would count as right by its place
    return ((logits.argmax(1) == labels) & ~logits.isnan().any(1)).sum(), int((labels != IGNORED).sum())
