"""Measure a path: the loss and accuracy of a network at every λ of a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from rebasin_cli.evaluation.barrier import Curve
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.metrics import Maker, collect
from rebasin_cli.evaluation.networks import Network
from rebasin_cli.evaluation.networks.modules import ModuleNetwork
from rebasin_cli.evaluation.scores import Scores
from rebasin_cli.matching.taps import Run, Taps

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
    batch_size: int = DEFAULT_BATCH_SIZE,
    device: torch.device | str = "cpu",
    metrics: Sequence[Maker] = (),
) -> Scores:
    """Mean cross-entropy in nats per example (per token where every token has a target), accuracy, and `metrics`."""
    measuring = [make() for make in metrics]
    with torch.inference_mode(), _full_precision():
        params = network.load(state, device)
        answered = 0
        loss = torch.zeros((), dtype=torch.float64, device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        for start in range(0, len(dataset), batch_size):
            targets = dataset.targets[start : start + batch_size].to(device)
            logits = network.logits(params, dataset.inputs[start : start + batch_size]).double()  # (batch, classes)
            for metric in measuring:
                metric.add(logits, targets)
            if targets.dim() > 1:  # (batch, tokens, vocabulary): every token is a question
                logits, targets = logits.flatten(0, -2), targets.flatten()
            answered += int((targets >= 0).sum())
            loss += F.cross_entropy(logits, targets, reduction="sum")
            # argmax takes a NaN for the largest: such an example would count as right by its place
            correct += ((logits.argmax(1) == targets) & ~logits.isnan().any(1)).sum()
    mean = loss.item() / answered
    return Scores(mean, correct.item() / answered, collect(measuring, mean))


def runner(network: AnyNetwork, dataset: Dataset, batch_size: int) -> Run:
    """What runs a network over examples in batches of about `batch_size`, none of them much smaller, with taps."""
    batches = max(1, round(len(dataset) / batch_size))

    def run(params: dict[str, Tensor], taps: Taps) -> None:
        with torch.inference_mode(), _full_precision():
            for inputs in dataset.inputs.tensor_split(batches):
                network.logits(params, inputs, taps)

    return run


def pair_runner(
    network: AnyNetwork, a: Mapping[str, Tensor], b: Mapping[str, Tensor], dataset: Dataset, batch_size: int
) -> Callable[[Taps, Taps], None]:
    """What runs two networks side by side over the same batches, with taps for each."""

    def run(taps_a: Taps, taps_b: Taps) -> None:
        with torch.inference_mode(), _full_precision():
            for inputs in torch.split(dataset.inputs, batch_size):
                network.logits(a, inputs, taps_a)
                network.logits(b, inputs, taps_b)

    return run


@contextmanager
def _full_precision() -> Iterator[None]:
    """Convolutions on a GPU in float32 proper: the default there is TF32, whose losses differ from the CPU's."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=True, allow_tf32=False):
        yield
