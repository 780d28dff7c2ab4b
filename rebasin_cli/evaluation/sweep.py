"""Measure a path: the loss and accuracy of a network at every λ of a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rebasin_cli.evaluation.answers import answer_of, by_position
from rebasin_cli.evaluation.barrier import Curve
from rebasin_cli.evaluation.data import IGNORED, Dataset
from rebasin_cli.evaluation.ensemble import averaged
from rebasin_cli.evaluation.losses import Loss, find_loss
from rebasin_cli.evaluation.metrics import Maker, collect
from rebasin_cli.evaluation.networks.module_network import ModuleNetwork
from rebasin_cli.evaluation.networks.network import Network
from rebasin_cli.evaluation.scores import Scores
from rebasin_cli.hooks import Run, Taps

DEFAULT_BATCH_SIZE = 512

AnyNetwork = Network | ModuleNetwork


def sweep(
    network: AnyNetwork,
    states: Callable[[float], Mapping[str, Tensor]],
    grid: Sequence[float],
    dataset: Dataset,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] | None = None,
) -> Curve:
    """Loss and accuracy at every λ of `grid`.

    Args:
        states: the state dict at a λ, with the keys of a checkpoint; may be lazy, and each tensor is read once.
        on_step: called with (points done, points) after each point.

    Returns:
        Losses are means over all examples, accumulated in float64, so that they hardly depend on `batch_size`.
        A loss that is not finite is returned as it is.
    """

    found = []
    for done, lam in enumerate(grid, 1):
        found.append(evaluate(network, states(lam), dataset, batch_size=batch_size, device=device))
        if on_step:
            on_step(done, len(grid))
    return as_curve(grid, found)


def as_curve(grid: Sequence[float], found: Sequence[Scores]) -> Curve:
    """The curve of what was measured at every λ."""
    names = dict.fromkeys(name for scores in found for name in scores.metrics)
    return Curve(
        tuple(grid),
        tuple(scores.loss for scores in found),
        tuple(scores.accuracy for scores in found),
        {name: tuple(scores.metrics.get(name, math.nan) for scores in found) for name in names},
    )


def evaluate(
    network: AnyNetwork,
    state: Mapping[str, Tensor],
    dataset: Dataset,
    *,
    loss: Loss | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    device: torch.device | str = "cpu",
    metrics: Sequence[Maker] = (),
) -> Scores:
    """Mean loss over all questions (examples, or positions that have a label), accuracy, and `metrics`.

    Args:
        loss: as `fitting_loss` gives it; the one for the kind of targets if there is none.
    """
    return evaluate_ensemble(
        network, (state,), (1.0,), dataset, loss=loss, batch_size=batch_size, device=device, metrics=metrics
    )


def evaluate_ensemble(
    network: AnyNetwork,
    states: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
    dataset: Dataset,
    *,
    loss: Loss | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    device: torch.device | str = "cpu",
    metrics: Sequence[Maker] = (),
) -> Scores:
    """As `evaluate`, of the mean answers of several states (see `averaged`), which are all in memory.

    Raises:
        ContentError: the outputs have no mean.
    """
    judged = loss or find_loss(None, dataset, network.answers)
    measuring = [make() for make in metrics]
    with torch.inference_mode(), _full_precision():
        together = [network.load(state, device) for state in states]
        params = together[-1]
        total = torch.zeros((), dtype=torch.float64, device=device)
        right = torch.zeros((), dtype=torch.int64, device=device)
        questions = asked = 0
        for batch in dataset.batches(batch_size):
            targets = targets_for(params, batch.targets)
            several = [network.outputs(each, batch.inputs) for each in together]
            outputs = averaged(network.family, several, weights, targets, judged)
            answers = None
            if measuring or judged.classes or not judged.whole:
                answers = answer_of(network.family, outputs).double()
            found, count = judged.total(outputs if judged.whole else answers, targets)
            total += found.double().to(total.device)
            questions += count
            if answers is None:
                continue
            for metric in measuring:
                metric.add(answers, targets)
            if judged.classes:
                correct, count = _correct(answers, targets)
                right += correct
                asked += count
    mean = total.item() / questions
    return Scores(mean, right.item() / asked if asked else math.nan, collect(measuring, mean))


def targets_for(params: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Targets where a network's tensors are; floats in their dtype."""
    floats = next(t for t in params.values() if t.is_floating_point())
    return targets.to(floats.device, floats.dtype if targets.is_floating_point() else targets.dtype)


def _correct(answers: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """How many questions are answered right, and how many there are."""
    found = by_position(answers, targets)
    assert found is not None  # seen to before
    logits, labels = found
    # argmax takes a NaN for the largest: such an example would count as right by its place
    return ((logits.argmax(1) == labels) & ~logits.isnan().any(1)).sum(), int((labels != IGNORED).sum())


def runner(network: AnyNetwork, dataset: Dataset, batch_size: int) -> Run:
    """What runs a network over examples in batches of about `batch_size`, none of them much smaller, with taps."""
    batches = max(1, round(len(dataset) / batch_size))

    def run(params: dict[str, Tensor], taps: Taps) -> None:
        with torch.inference_mode(), _full_precision():
            for rows in torch.arange(len(dataset)).tensor_split(batches):
                network.outputs(params, dataset.part(slice(int(rows[0]), int(rows[-1]) + 1)).inputs, taps)

    return run


def pair_runner(
    network: AnyNetwork, a: Mapping[str, Tensor], b: Mapping[str, Tensor], dataset: Dataset, batch_size: int
) -> Callable[[Taps, Taps], None]:
    """What runs two networks side by side over the same batches, with taps for each."""

    def run(taps_a: Taps, taps_b: Taps) -> None:
        with torch.inference_mode(), _full_precision():
            for batch in dataset.batches(batch_size):
                network.outputs(a, batch.inputs, taps_a)
                network.outputs(b, batch.inputs, taps_b)

    return run


@contextmanager
def _full_precision() -> Iterator[None]:
    """Convolutions on a GPU in float32 proper: the default there is TF32, whose losses differ from the CPU's."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=True, allow_tf32=False):
        yield
