"""Measure a path: the loss and accuracy of a network at every λ of a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
        tuple(scores.reliability for scores in found) if any(scores.reliability for scores in found) else (),
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
    (found,) = evaluate_mixtures(
        network, states, (weights,), dataset, loss=loss, batch_size=batch_size, device=device, metrics=metrics
    )
    return found


def evaluate_mixtures(
    network: AnyNetwork,
    states: Sequence[Mapping[str, Tensor]],
    mixtures: Sequence[Sequence[float]],
    dataset: Dataset,
    *,
    loss: Loss | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    device: torch.device | str = "cpu",
    metrics: Sequence[Maker] = (),
    calibrate: Dataset | None = None,
) -> list[Scores]:
    """As `evaluate_ensemble`, for several weightings of the same states, in one pass over the examples.

    Args:
        mixtures: weights of the states, each summing to 1.
        calibrate: examples on which a temperature is fitted for each weighting, by which its logits are divided
            before they are judged (`loss` is a cross-entropy then); None: logits are judged as they are.

    Raises:
        ContentError: the outputs have no mean.
    """
    judged = loss or find_loss(None, dataset, network.answers)
    with torch.inference_mode(), _full_precision():
        together = [network.load(state, device) for state in states]
        scales: Sequence[float | None] = [None] * len(mixtures)
        if calibrate is not None:
            scales = _scales(network, together, mixtures, calibrate, judged, batch_size)
        tallies = [Tally(network.family, judged, [make() for make in metrics], scale) for scale in scales]
        for targets, several in _answers(network, together, dataset, batch_size):
            for weights, tally in zip(mixtures, tallies, strict=True):
                tally.add(averaged(network.family, several, weights, targets, judged), targets)
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
