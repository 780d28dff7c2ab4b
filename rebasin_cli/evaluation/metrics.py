"""What is measured of a network besides its loss and accuracy: `--metric`, by name or by a user's own function."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError, UsageError, did_you_mean
from rebasin_cli.evaluation.answers import by_position
from rebasin_cli.evaluation.losses import Loss
from rebasin_cli.evaluation.options import CROSS_ENTROPY
from rebasin_cli.evaluation.scores import Bin
from rebasin_cli.evaluation.user_code import call_named, import_named, is_named

HELP = "a function of (outputs, targets) of a batch that returns their mean, or a dict of such numbers by name"
RESERVED = ("loss", "accuracy", "temperature")

_TOP = 5
_BINS = 15  # as Guo et al. and everyone after them


class Metric(ABC):
    """Sees every batch of one network, then says what it is worth by name."""

    def add(self, logits: Tensor, targets: Tensor) -> None:  # noqa: B027  (perplexity looks at the loss alone)
        """Take a batch: answers in float64 (see `by_position` for those that are logits), and targets (N, …)."""

    @abstractmethod
    def values(self, loss: float) -> dict[str, float]:
        """The figures over all batches; `loss` is the mean loss over them."""

    def reliability(self) -> tuple[Bin, ...]:
        """The answers by their confidence, of a metric that sorts them so."""
        return ()


class Top5(Metric):
    """Fraction of answers whose right class is among the five likeliest."""

    def __init__(self) -> None:
        self.right, self.count = 0, 0

    def add(self, logits: Tensor, targets: Tensor) -> None:
        logits, targets = _answers(logits, targets)
        if logits.shape[1] <= _TOP:
            raise ContentError(
                f"--metric top5 is 1 for every network with {logits.shape[1]} classes",
                remedy="leave it away; accuracy is always measured",
            )
        best = logits.topk(_TOP).indices  # (answers, 5)
        found = (best == targets[:, None]).any(1) & ~logits.isnan().any(1)
        self.right, self.count = self.right + int(found.sum()), self.count + len(targets)

    def values(self, loss: float) -> dict[str, float]:
        return {"top5": self.right / self.count}


class MacroF1(Metric):
    """Mean over classes of the F1 score; classes that are neither there nor answered do not count."""

    def __init__(self) -> None:
        self.right, self.wanted, self.said = (torch.zeros((), dtype=torch.int64),) * 3

    def add(self, logits: Tensor, targets: Tensor) -> None:
        logits, targets = _answers(logits, targets)
        classes = logits.shape[1]
        answers = torch.where(logits.isnan().any(1), classes, logits.argmax(1))  # NaN is an answer that no class is
        self.right = self.right + _counts(targets[answers == targets], classes)
        self.wanted = self.wanted + _counts(targets, classes)
        self.said = self.said + _counts(answers, classes)

    def values(self, loss: float) -> dict[str, float]:
        total = self.wanted + self.said
        seen = total > 0
        return {"macro-f1": (2 * self.right[seen].double() / total[seen]).mean().item()}


class CalibrationError(Metric):
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599): |accuracy − confidence| in 15 bins, weighed."""

    def __init__(self) -> None:
        self.confidence, self.right, self.counts = (torch.zeros(_BINS, dtype=torch.float64) for _ in range(3))

    def add(self, logits: Tensor, targets: Tensor) -> None:
        logits, targets = _answers(logits, targets)
        confidence, answers = logits.softmax(1).max(1)
        bins = (confidence * _BINS).ceil().sub(1).nan_to_num(0).clamp(0, _BINS - 1).long()  # (low, high], as published
        right = (answers == targets).double()
        for sums, values in ((self.confidence, confidence), (self.right, right), (self.counts, torch.ones_like(right))):
            sums.index_add_(0, bins.cpu(), values.cpu())

    def values(self, loss: float) -> dict[str, float]:
        return {"calibration-error": ((self.right - self.confidence).abs().sum() / self.counts.sum()).item()}

    def reliability(self) -> tuple[Bin, ...]:
        bins = zip(self.counts.tolist(), self.confidence.tolist(), self.right.tolist(), strict=True)
        return tuple(Bin(int(count), sure / count, right / count) for count, sure, right in bins if count)


class Perplexity(Metric):
    """exp of the mean loss."""

    def values(self, loss: float) -> dict[str, float]:
        return {"perplexity": math.exp(min(loss, 700.0))}  # the largest that a float holds is exp(709)


class Own(Metric):
    """A user's function: its batch means, averaged over examples; named as the function, or as the keys of its dict."""

    def __init__(self, reference: str, function: Callable[..., object]) -> None:
        self.reference, self.function = reference, function
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, logits: Tensor, targets: Tensor) -> None:
        found = call_named("--metric", self.reference, self.function, logits, targets)
        named = found if isinstance(found, Mapping) else {self.reference.partition(":")[2]: found}
        for name, value in named.items():
            try:
                number = float(value)  # a tensor or an array of one number, too
            except (TypeError, ValueError, RuntimeError) as error:
                raise ContentError(
                    f"--metric {self.reference}: `{name}` is a {type(value).__name__}, no number",
                    remedy=f"it is {HELP}",
                ) from error
            self.sums[str(name)] = self.sums.get(str(name), 0.0) + number * len(targets)
        self.count += len(targets)

    def values(self, loss: float) -> dict[str, float]:
        return {name: total / self.count for name, total in self.sums.items()}


Maker = Callable[[], Metric]
"""Makes a metric that has seen nothing yet: one for each network that is measured."""

METRICS: Mapping[str, Maker] = {
    "top5": Top5,
    "macro-f1": MacroF1,
    "calibration-error": CalibrationError,
    "perplexity": Perplexity,
}
"""Every `--metric` that has a name of its own."""


def find_metrics(names: Sequence[str]) -> tuple[Maker, ...]:
    """The metrics that are called so, each once.

    Raises:
        UsageError: one is neither in `METRICS` nor `package.module:function`, or cannot be imported.
    """
    return tuple(_find(name) for name in dict.fromkeys(names))


def check_metrics(names: Sequence[str], loss: Loss) -> None:
    """Refuse metrics of classes where answers are none, and perplexity of another loss than cross-entropy.

    Raises:
        UsageError: naming the metric.
    """
    for name in names:
        if name in METRICS and not (loss.name == CROSS_ENTROPY if name == "perplexity" else loss.classes):
            raise UsageError(
                f"--metric {name} is of answers that are classes, and --loss {loss.name} judges others"
                if name != "perplexity"
                else f"--metric perplexity is the exponential of cross-entropy, and the loss is {loss.name}",
                remedy="leave it away, or name a function of your own: --metric package.module:function",
            )


def collect(metrics: Sequence[Metric], loss: float) -> dict[str, float]:
    """All their figures by name.

    Raises:
        ContentError: two have one name.
    """
    found: dict[str, float] = {}
    for metric in metrics:
        for name, value in metric.values(loss).items():
            if name in found or name in RESERVED:
                raise ContentError(f"--metric: two figures are called `{name}`", remedy="rename your own")
            found[name] = value
    return found


def _find(name: str) -> Maker:
    if name in METRICS:
        return METRICS[name]
    if not is_named(name):
        hint = did_you_mean(name, METRICS)
        raise UsageError(
            f"--metric {name}: there is none of that name" + (f"; {hint}" if hint else ""),
            remedy=f"use {', '.join(METRICS)}, or package.module:function: {HELP}",
        )
    function = import_named("--metric", name, HELP)
    return lambda: Own(name, function)


def _answers(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(answers, classes) and (answers,): only positions that have a label."""
    found = by_position(logits, targets)
    assert found is not None  # seen to before
    logits, targets = found
    asked = targets >= 0
    return (logits, targets) if bool(asked.all()) else (logits[asked], targets[asked])


def _counts(classes: Tensor, of: int) -> Tensor:
    return torch.bincount(classes, minlength=of)[:of].cpu()
