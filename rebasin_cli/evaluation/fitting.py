"""Whether examples fit a network: told from shapes and labels, before anything is read or computed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.networks import Network
from rebasin_cli.evaluation.networks.modules import ModuleNetwork


def check_fits(network: Network, dataset: Dataset) -> None:
    """Refuse examples that the network cannot take or labels that it has no logit for.

    Raises:
        ContentError: with both facts: the shape or label there is and the one the network needs.
    """
    if not dataset.inputs.is_floating_point():
        raise ContentError(
            f"`inputs` are {str(dataset.inputs.dtype).removeprefix('torch.')}, and the network takes floats",
            where=dataset.source,
            remedy="save them as floats, or as uint8 from 0 to 255, which is divided by 255",
        )
    _check_inputs(network, dataset)
    _check_labels(network, dataset)
    _check_run(network, dataset)


def check_runs(network: ModuleNetwork, state: Mapping[str, Tensor], dataset: Dataset) -> None:
    """Run a module on one example: what it takes, only it knows.

    Raises:
        ContentError: it raises, its logits have the wrong axes, or there is a label that it has no logit for.
    """
    try:
        with torch.inference_mode():
            logits = network.logits(network.load(state), dataset.inputs[:1])
    except ContentError:
        raise
    except Exception as error:
        raise ContentError(
            f"{network.family} cannot take `inputs` of shape {tuple(dataset.inputs.shape)}, one example at a time: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            where=dataset.source,
            remedy="use the data that the network was trained for; --debug shows where it stopped",
        ) from error
    wanted = (1, *dataset.targets.shape[1:])
    if tuple(logits.shape[:-1]) != wanted:
        raise ContentError(
            f"{network.family} answers one example with {tuple(logits.shape)}, and its targets are {wanted}",
            where=dataset.source,
            remedy="logits are (N, classes), or (N, tokens, vocabulary) where every token has a target",
        )
    labels = dataset.targets[dataset.targets != -100]
    _check_range(int(labels.min()), int(labels.max()), logits.shape[-1], dataset.source)


def _check_inputs(network: Network, dataset: Dataset) -> None:
    have = tuple(dataset.inputs.shape)
    shaped = network.shape_inputs(dataset.inputs[:1])
    if network.reads == "vectors":
        if shaped.shape[1] != network.width:
            raise ContentError(
                f"one input has {shaped.shape[1]} numbers (`inputs` are {have}), and the network takes {network.width}",
                where=dataset.source,
                remedy="use the data that the network was trained for",
            )
        return
    needs = f"(N, {network.width}, height, width)"
    if shaped.ndim != 4:
        raise ContentError(
            f"`inputs` are {have}, and the network takes images {needs}",
            where=dataset.source,
            remedy="save the images with an axis for the channels, and height and width last",
        )
    if shaped.shape[1] != network.width:
        last = shaped.shape[3] == network.width
        raise ContentError(
            f"`inputs` are {have}: {shaped.shape[1]} channels, and the network takes {needs}",
            where=dataset.source,
            remedy="move the channels before height and width: inputs.transpose(0, 3, 1, 2)"
            if last
            else "use the data that the network was trained for",
        )


def _check_labels(network: Network, dataset: Dataset) -> None:
    low, high = int(dataset.targets.min()), int(dataset.targets.max())
    _check_range(low, high, network.classes, dataset.source)


def _check_range(low: int, high: int, classes: int, source: str) -> None:
    if low < 0 or high >= classes:
        raise ContentError(
            f"labels run from {low} to {high}, and the network has {classes} classes, 0 to {classes - 1}",
            where=source,
            remedy="use the data that the network was trained for, with classes counted from 0",
        )


def _check_run(network: Network, dataset: Dataset) -> None:
    """Run one example through the network's shapes alone (meta tensors): what no rule above foresees."""
    params = {name: torch.empty(shape, device="meta") for name, shape in network.shapes.items()}
    try:
        network.logits(params, dataset.inputs[:1])
    except RuntimeError as error:
        raise ContentError(
            f"`inputs` of shape {tuple(dataset.inputs.shape)} cannot pass through the network: {error}",
            where=dataset.source,
            remedy="images may be too small for the network's pooling, or a network option may be needed",
        ) from error
