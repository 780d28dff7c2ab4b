"""What a network is worth on examples: its loss, accuracy and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.answers import answer_of
from rebasin_cli.evaluation.barrier import Curve
from rebasin_cli.evaluation.calibration import LARGEST, fitted_scale
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.ensemble import averaged
from rebasin_cli.evaluation.losses import Loss, find_loss
from rebasin_cli.evaluation.metrics import Maker
from rebasin_cli.evaluation.networks.module_network import ModuleNetwork
from rebasin_cli.evaluation.networks.network import Network
from rebasin_cli.evaluation.scores import Scores
from rebasin_cli.evaluation.tally import Tally
from rebasin_cli.hooks import Run, Taps

AnyNetwork = Network | ModuleNetwork


@dataclass(frozen=True, slots=True)
class Judging:
    """How answers are judged.

    Attributes:
        loss: as `fitting_loss` gives it; the one for the kind of targets if there is none.
        batch_size: examples at a time; device: where the network runs.
        metrics: what is measured besides the loss and accuracy.
        calibrate: examples on which a temperature is fitted for each network (or weighting of networks), by which its
            logits are divided before they are judged (`loss` is a cross-entropy then); None: as they are.
    """

    loss: Loss | None = None
    batch_size: int = 512
    device: torch.device | str = "cpu"
    metrics: Sequence[Maker] = ()
    calibrate: Dataset | None = None


PLAINLY = Judging()
"""By the loss for the kind of targets, and on the CPU."""


def as_curve(grid: Sequence[float], found: Sequence[Scores]) -> Curve:
    """The curve of what was measured at every λ."""
    names = dict.fromkeys(name for scores in found for name in scores.metrics)
    return Curve(
        tuple(grid),
        tuple(scores.loss for scores in found),
        tuple(scores.accuracy for scores in found),
        {name: tuple(scores.metrics.get(name, math.nan) for scores in found) for name in names},
        tuple(scores.reliability for scores in found) if any(scores.reliability for scores in found) else (),
    )


def evaluate(network: AnyNetwork, state: Mapping[str, Tensor], dataset: Dataset, judging: Judging = PLAINLY) -> Scores:
    """Mean loss over all questions (examples, or positions that have a label), accuracy, and metrics.

    Losses are accumulated in float64, so that they hardly depend on the batch size. One that is not finite is returned
    as it is. Each tensor of `state`, which may be lazy, is read once.
    """
    return evaluate_ensemble(network, (state,), (1.0,), dataset, judging)


def evaluate_ensemble(
    network: AnyNetwork,
    states: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
    dataset: Dataset,
    judging: Judging = PLAINLY,
) -> Scores:
    """As `evaluate`, of the mean answers of several states (see `averaged`), which are all in memory.

    Raises:
        ContentError: the outputs have no mean.
    """
    (found,) = evaluate_mixtures(network, states, (weights,), dataset, judging)
    return found


def evaluate_mixtures(
    network: AnyNetwork,
    states: Sequence[Mapping[str, Tensor]],
    mixtures: Sequence[Sequence[float]],
    dataset: Dataset,
    judging: Judging = PLAINLY,
) -> list[Scores]:
    """As `evaluate_ensemble`, for several weightings of the same states, in one pass over the examples.

    Args:
        mixtures: weights of the states, each summing to 1.

    Raises:
        ContentError: the outputs have no mean, or there are too many logits to fit a temperature on.
    """
    loss = judging.loss or find_loss(None, dataset, network.answers)
    with torch.inference_mode(), _full_precision():
        together = [network.load(state, judging.device) for state in states]
        scales: Sequence[float | None] = [None] * len(mixtures)
        if judging.calibrate is not None:
            scales = _scales(network, together, mixtures, judging.calibrate, loss, judging.batch_size)
        tallies = [Tally(network.family, loss, [make() for make in judging.metrics], scale) for scale in scales]
        for targets, several in _answers(network, together, dataset, judging.batch_size):
            for weights, tally in zip(mixtures, tallies, strict=True):
                tally.add(averaged(network.family, several, weights, targets, loss), targets)
    return [tally.scores() for tally in tallies]


def _scales(
    network: AnyNetwork, states: Sequence[Mapping[str, Tensor]], mixtures: Sequence[Sequence[float]], dataset: Dataset,
    loss: Loss, batch_size: int,
) -> list[float]:  # fmt: skip
    """For each weighting the scale of its logits that fits the examples best.

    Raises:
        ContentError: there are too many logits to be kept.
    """
    kept: list[tuple[Tensor, list[Tensor]]] = []
    numbers = 0
    for targets, several in _answers(network, states, dataset, batch_size):
        answers = [answer_of(network.family, outputs).float() for outputs in several]
        numbers += sum(each.numel() for each in answers)
        if numbers > LARGEST:
            raise ContentError(
                f"a temperature is fitted on logits in memory, and these are more than {LARGEST:,} numbers",
                where=dataset.source,
                remedy="fit it on fewer examples: --fit-limit 100",
            )
        kept.append((targets, answers))
    return [
        fitted_scale((averaged(network.family, answers, weights, targets, loss), targets) for targets, answers in kept)
        for weights in mixtures
    ]


def _answers(
    network: AnyNetwork, states: Sequence[Mapping[str, Tensor]], dataset: Dataset, batch_size: int
) -> Iterator[tuple[Tensor, list[Any]]]:
    """The targets of every batch, and what each state answers."""
    for batch in dataset.batches(batch_size):
        yield targets_for(states[-1], batch.targets), [network.outputs(state, batch.inputs) for state in states]


def targets_for(params: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Targets where a network's tensors are; floats in their dtype."""
    floats = next(t for t in params.values() if t.is_floating_point())
    return targets.to(floats.device, floats.dtype if targets.is_floating_point() else targets.dtype)


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
