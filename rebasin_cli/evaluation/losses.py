"""How a network's answers are judged: `--loss`, by name or by a user's own function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.answers import answer_of, by_position, either_order, named_answer
from rebasin_cli.evaluation.data import IGNORED, Dataset
from rebasin_cli.evaluation.networks.network import Answers
from rebasin_cli.evaluation.options import CROSS_ENTROPY, LOSS_HELP, MAE, MSE, unknown_loss
from rebasin_cli.evaluation.user_code import call_named, import_named, is_named

NATS = "nats per example"
TRIED = 2
"""Examples that a network is tried on: of a single one, a forward that squeezes makes another shape."""

Total = Callable[[Any, Tensor], tuple[Tensor, int]]


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss, lower is better.

    Attributes:
        name: as `--loss` says it.
        unit: of its mean.
        total: from outputs and targets of a batch to the sum over questions, and how many there are; differentiable
            but for a user's function that is not.
        whole: it takes outputs as the network returns them; else the tensor among them (`answer_of`).
        classes: answers are classes, so that there is an accuracy.
        notes: what was taken for granted.
    """

    name: str
    unit: str
    total: Total
    whole: bool = False
    classes: bool = False
    notes: tuple[str, ...] = ()

    def mean(self, family: str, outputs: Any, targets: Tensor) -> Tensor:
        """Of a batch, differentiable."""
        total, count = self.total(outputs if self.whole else answer_of(family, outputs), targets)
        return total / max(count, 1)


def find_loss(name: str | None, dataset: Dataset, answers: Answers = "example") -> Loss:
    """The loss of a name, or the one for the kind of targets: cross-entropy for integers, mse for floats.

    Raises:
        UsageError: there is none of that name, or it cannot be imported.
        ContentError: it is not for targets of that kind.
    """
    targets = dataset.targets
    if name is not None and is_named(name):
        function = import_named("--loss", name, LOSS_HELP)
        return Loss(name, f"{name} per example", _own(name, function), whole=True)
    if name is not None and name not in LOSSES:
        raise unknown_loss(name)
    if name is None and targets.dtype != torch.bool:
        name = MSE if targets.is_floating_point() else CROSS_ENTROPY
    kind = str(targets.dtype).removeprefix("torch.")
    if targets.dtype == torch.bool:
        raise ContentError(
            f"`targets` are {kind}, of which no loss is taken",
            where=dataset.source,
            remedy="save them as int64 (classes 0 and 1) or as float32, or take --loss package.module:function",
        )
    if name == CROSS_ENTROPY and targets.is_floating_point():
        raise ContentError(
            f"`targets` are {kind}, and --loss cross-entropy needs class numbers, which are integers",
            where=dataset.source,
            remedy="save the class numbers, counted from 0, as int64; or use --loss mse, mae, MODULE:FUNCTION",
        )
    loss = LOSSES[str(name)]
    if name == CROSS_ENTROPY and answers != "example":
        return replace(loss, unit=f"nats per {answers}")
    if name == CROSS_ENTROPY and targets.dim() > 1:
        return replace(loss, unit="nats per position")
    return loss


def check_loss(loss: Loss, family: str, outputs: Any, dataset: Dataset) -> Loss:
    """See that a loss takes what a network returns for some examples, and know whether answers are classes.

    Args:
        outputs: for the first `TRIED` examples; of shapes alone (on the meta device) unless the loss is a user's.

    Raises:
        ContentError: shapes do not fit, there are labels without a logit, or a user's function fails.
    """
    first = dataset.targets[:TRIED]
    if loss.whole:
        loss.total(outputs, first)
        return replace(loss, classes=_are_classes(family, outputs, dataset))
    name, answers, others = named_answer(family, outputs)
    notes = [f"{family} returns several tensors: `{name}` is judged, {', '.join(others)} are not"] if others else []
    if loss.classes:
        check_classes(family, answers, dataset)
        if either_order(answers, first):
            place = -1 if first.dim() == 2 else 1
            notes.append(f"classes are taken for axis {place} of {tuple(answers.shape)}, which the shapes do not tell")
    else:
        alike(answers, first, family, dataset.source)
    return replace(loss, notes=tuple(notes))


def check_classes(family: str, answers: Tensor, dataset: Dataset) -> None:
    """See that there is a logit for every label.

    Args:
        answers: for the first `TRIED` examples.

    Raises:
        ContentError: with both facts.
    """
    targets = dataset.targets
    first = targets[:TRIED]
    found = by_position(answers, first)
    if found is None:
        one_hot = answers.shape == first.shape and bool((targets.sum(-1) == 1).all())
        same = answers.shape == first.shape and not one_hot
        raise ContentError(
            f"{family} answers {_examples(first)} with {tuple(answers.shape)}, and the targets are "
            f"{tuple(first.shape)}: cross-entropy takes a logit for every class",
            where=dataset.source,
            remedy="save class numbers; from one-hot rows they are targets.argmax(1)"
            if one_hot
            else "compare numbers with --loss mse or mae"
            if same
            else "logits are (N, classes) for targets (N,); (N, positions, classes) or (N, classes, positions) where "
            "every position has a target",
        )
    labels = targets[targets != IGNORED]
    if not labels.numel():
        raise ContentError(
            f"every target is {IGNORED}, which stands for no answer", where=dataset.source, remedy="give some targets"
        )
    low, high, classes = int(labels.min()), int(labels.max()), found[0].shape[1]
    if low >= 0 and high < classes:
        return
    remedy = "use the data that the network was trained for, with classes counted from 0"
    if classes == 1:
        remedy = "one output is no class: use --loss mse, or --loss package.module:function for a logit of yes or no"
    elif targets.dim() > 1:
        remedy += f"; a position that has no class is {IGNORED}"
    raise ContentError(
        f"labels run from {low} to {high}, and the network has {classes} classes, 0 to {classes - 1}",
        where=dataset.source,
        remedy=remedy,
    )


def alike(answers: Tensor, targets: Tensor, family: str = "the network", source: str = "") -> tuple[Tensor, Tensor]:
    """Answers and targets of one shape and dtype; (N, 1) and (N,) are one. Nothing is broadcast.

    Raises:
        ContentError: their shapes differ.
    """
    count = len(targets)
    one_each = {(count,), (count, 1)} | ({()} if count == 1 else set())  # () of a forward that squeezes
    if tuple(answers.shape) in one_each and tuple(targets.shape) in one_each:
        answers, targets = answers.reshape(-1), targets.reshape(-1)
    if answers.shape != targets.shape:
        labels = targets.dim() == 1 and answers.dim() == 2
        raise ContentError(
            f"{family} answers {_examples(targets)} with {tuple(answers.shape)}, and the targets are "
            f"{tuple(targets.shape)}: they are compared number by number",
            where=source,
            remedy="class numbers are saved as int64, and judged by --loss cross-entropy"
            if labels
            else "save targets of the shape of the outputs, or take --loss package.module:function",
        )
    return answers, targets.to(answers.dtype)


def _examples(targets: Tensor) -> str:
    return f"{len(targets)} example" + "s" * (len(targets) != 1)


def _cross_entropy(answers: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    found = by_position(answers, targets)
    assert found is not None  # seen to before
    return F.cross_entropy(*found, reduction="sum", ignore_index=IGNORED), int((targets != IGNORED).sum())


def _squares(answers: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    one, two = alike(answers, targets)
    return (one - two).square().flatten(1).mean(1).sum() if one.dim() > 1 else (one - two).square().sum(), len(one)


def _absolutes(answers: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    one, two = alike(answers, targets)
    return (one - two).abs().flatten(1).mean(1).sum() if one.dim() > 1 else (one - two).abs().sum(), len(one)


def _own(reference: str, function: Callable[..., Any]) -> Total:
    def total(outputs: Any, targets: Tensor) -> tuple[Tensor, int]:
        found = call_named("--loss", reference, function, outputs, targets)
        if isinstance(found, Tensor) and found.numel() == 1:
            return found.reshape(()) * len(targets), len(targets)
        try:
            return torch.tensor(float(found), dtype=torch.float64) * len(targets), len(targets)
        except (TypeError, ValueError, RuntimeError) as error:
            what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ContentError(
                f"--loss {reference}: the function returned {what}", remedy=f"it is {LOSS_HELP}"
            ) from error

    return total


def _are_classes(family: str, outputs: Any, dataset: Dataset) -> bool:
    """Whether an accuracy has a meaning beside a user's own loss: for integer targets with a logit for each."""
    if dataset.targets.is_floating_point() or dataset.targets.dtype == torch.bool:
        return False
    try:
        check_classes(family, answer_of(family, outputs), dataset)
    except ContentError:
        return False
    return True


def blind_loss(loss: Loss, targets: Tensor) -> float:
    """The loss of the best answer that looks at no input: the targets' mean for mse, their median for mae.

    Infinite for other losses, of which it is not known.
    """
    if loss.name not in (MSE, MAE) or len(targets) < 2:
        return math.inf
    wide = targets.double().reshape(len(targets), -1)
    if loss.name == MSE:
        return float((wide - wide.mean(0)).square().mean())
    return float((wide - wide.median(0).values).abs().mean())


LOSSES: Mapping[str, Loss] = {
    CROSS_ENTROPY: Loss(CROSS_ENTROPY, NATS, _cross_entropy, classes=True),
    MSE: Loss(MSE, "mean squared error per example", _squares),
    MAE: Loss(MAE, "mean absolute error per example", _absolutes),
}
"""Every `--loss` that has a name of its own."""
