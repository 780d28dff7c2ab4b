"""Whether examples and a loss fit a network: told from shapes, labels and a few examples, before any long work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.evaluate import AnyNetwork, targets_for
from rebasin_cli.evaluation.inputs import leaves
from rebasin_cli.evaluation.losses import TRIED, Loss, check_loss, find_loss
from rebasin_cli.evaluation.networks.module_network import ModuleNetwork
from rebasin_cli.evaluation.networks.network import Network


def check_fits(network: Network, dataset: Dataset) -> Tensor:
    """Refuse examples that the network cannot take.

    Returns:
        What it makes of some of them, on the meta device: its shape.

    Raises:
        ContentError: with both facts: the shape there is and the one the network needs.
    """
    inputs = dataset.inputs
    if not isinstance(inputs, Tensor):
        raise ContentError(
            f"the data has several inputs ({', '.join(leaves(inputs))}), and the {network.family} network takes one",
            where=dataset.source,
            remedy="name one array `inputs`, or your own network with --network",
        )
    if not inputs.is_floating_point():
        raise ContentError(
            f"`inputs` are {str(inputs.dtype).removeprefix('torch.')}, and the network takes floats",
            where=dataset.source,
            remedy="save them as floats, or as uint8 from 0 to 255, which is divided by 255",
        )
    _check_inputs(network, inputs, dataset.source)
    return _check_run(network, inputs, dataset.source)


def check_runs(network: ModuleNetwork, state: Mapping[str, Tensor], dataset: Dataset) -> Any:
    """Run a module on some examples: what it takes, only it knows. Returns its outputs.

    Raises:
        ContentError: it raises.
    """
    first = dataset.part(slice(TRIED))
    try:
        with torch.inference_mode():
            return network.outputs(network.load(state), first.inputs)
    except ContentError:
        raise
    except Exception as error:
        shapes = ", ".join(f"`{name}` of shape {tuple(t.shape)}" for name, t in leaves(dataset.inputs).items())
        raise ContentError(
            f"{network.family} cannot take {shapes}, {len(first)} examples at a time: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            where=dataset.source,
            remedy="use the data that the network was trained for; --debug shows where it stopped",
        ) from error


def check_examples(network: AnyNetwork, state: Mapping[str, Tensor], dataset: Dataset) -> Any:
    """See that a network takes the inputs, before any long work. Returns its outputs for some, or their shapes alone.

    Raises:
        ContentError: it does not.
    """
    return check_fits(network, dataset) if isinstance(network, Network) else check_runs(network, state, dataset)


def fitting_loss(name: str | None, network: AnyNetwork, state: Mapping[str, Tensor], dataset: Dataset) -> Loss:
    """The loss of a name (None: for the kind of targets), seen to fit the network's answers and the targets.

    Raises:
        UsageError: there is none of that name. ContentError: inputs, targets, answers and loss do not fit together.
    """
    loss = find_loss(name, dataset, network.answers)
    outputs = check_examples(network, state, dataset)
    if not loss.whole:
        return check_loss(loss, network.family, outputs, dataset)
    first = dataset.part(slice(TRIED))
    with torch.inference_mode():
        params = network.load(state)
        outputs = network.outputs(params, first.inputs)
        return check_loss(loss, network.family, outputs, replace(dataset, targets=targets_for(params, dataset.targets)))


def _check_inputs(network: Network, inputs: Tensor, source: str) -> None:
    have = tuple(inputs.shape)
    shaped = network.shape_inputs(inputs[:1])
    if network.reads == "vectors":
        if shaped.shape[1] != network.width:
            raise ContentError(
                f"one input has {shaped.shape[1]} numbers (`inputs` are {have}), and the network takes {network.width}",
                where=source,
                remedy="use the data that the network was trained for",
            )
        return
    needs = f"(N, {network.width}, height, width)"
    if shaped.ndim != 4:
        raise ContentError(
            f"`inputs` are {have}, and the network takes images {needs}",
            where=source,
            remedy="save the images with an axis for the channels, and height and width last",
        )
    if shaped.shape[1] != network.width:
        last = shaped.shape[3] == network.width
        raise ContentError(
            f"`inputs` are {have}: {shaped.shape[1]} channels, and the network takes {needs}",
            where=source,
            remedy="move the channels before height and width: inputs.transpose(0, 3, 1, 2)"
            if last
            else "use the data that the network was trained for",
        )


def _check_run(network: Network, inputs: Tensor, source: str) -> Tensor:
    """Run some examples through the network's shapes alone (meta tensors): what no rule above foresees."""
    params = {name: torch.empty(shape, device="meta") for name, shape in network.shapes.items()}
    try:
        return network.logits(params, inputs[:TRIED])
    except RuntimeError as error:
        raise ContentError(
            f"`inputs` of shape {tuple(inputs.shape)} cannot pass through the network: {error}",
            where=source,
            remedy="images may be too small for the network's pooling, or a network option may be needed",
        ) from error
