"""What a `DataRequest` names, read: the network, its examples and its loss, which fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint, is_on_hub
from rebasin_cli.errors import UsageError
from rebasin_cli.evaluation.compatibility import check_examples, fitting_loss
from rebasin_cli.evaluation.data import Dataset, load_data
from rebasin_cli.evaluation.evaluate import AnyNetwork
from rebasin_cli.evaluation.given import GivenData
from rebasin_cli.evaluation.hub_data import is_hub_data, load_hub_data
from rebasin_cli.evaluation.images import Preparation, image_root, load_images
from rebasin_cli.evaluation.loaders import load_given, load_named
from rebasin_cli.evaluation.losses import Loss
from rebasin_cli.evaluation.networks.module_network import user_network
from rebasin_cli.evaluation.networks.network import Network
from rebasin_cli.evaluation.networks.pretrained import pretrained_network
from rebasin_cli.evaluation.networks.registry import FAMILIES, build_network
from rebasin_cli.evaluation.options import Split, check_name
from rebasin_cli.evaluation.text import load_masked_text, load_text
from rebasin_cli.evaluation.user_code import is_named
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.data_request import DataRequest
from rebasin_cli.safe_text import first_names
from rebasin_cli.spec import Layout

_OWN: WeakKeyDictionary[Checkpoint, dict[tuple[Any, ...], AnyNetwork]] = WeakKeyDictionary()
"""Networks of the user's that were built for a checkpoint that is open."""


def network_and_data(
    request: DataRequest, layout: Layout, checkpoint: Checkpoint, progress: Progress
) -> tuple[AnyNetwork, Dataset, Loss]:
    """The network of a checkpoint, the examples of `--data` and the loss, which fit each other."""
    check_name(request.loss)
    network = find_network(request, layout, checkpoint)
    for assumption in network.assumptions:
        progress.remark(f"not told by the shapes, so taken for granted: {assumption}")
    assert request.path is not None
    dataset = read_data(request, request.path, request.split, request.limit, network, checkpoint, progress)
    return network, dataset, settle_loss(request.loss, network, checkpoint, dataset, progress)


def settle_loss(
    name: str | None, network: AnyNetwork, state: Mapping[str, Tensor], dataset: Dataset, progress: Progress
) -> Loss:
    """The loss of a network on examples, said where it was taken for granted.

    Raises:
        RebasinError: network, examples and loss do not fit together.
    """
    loss = fitting_loss(name, network, state, dataset)
    if name is None and dataset.targets.is_floating_point():
        progress.remark(f"the targets are floats, so the loss is the {loss.unit} (--loss says otherwise)")
    for text in loss.notes:
        progress.remark(text)
    return loss


def find_network(request: DataRequest, layout: Layout, checkpoint: Checkpoint) -> AnyNetwork:
    """The user's own network, the one that ships for the architecture, or the one that config.json names.

    One of the user's is built once for a checkpoint, whoever asks for it: to prove a spec, to judge, to fit.
    """
    if request.network is not None:
        built = _OWN.setdefault(checkpoint, {})
        which = (request.network, layout.prefix, tuple(sorted(request.options.items())))
        if which not in built:
            built[which] = user_network(request.network, checkpoint, layout.prefix, request.options)
        return built[which]
    config = checkpoint.config
    if layout.spec.name not in FAMILIES and config is not None and config.get("architectures"):
        folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        return pretrained_network(config, checkpoint, folder)
    return build_network(layout, checkpoint.infos, request.options)


def fitting_data(
    request: DataRequest, network: AnyNetwork, checkpoint: Checkpoint, progress: Progress, *, labels: bool = False
) -> Dataset:
    """The examples to fit on; of data with two halves the training half. They fit the network.

    Args:
        labels: whether there must be answers.
    """
    path = request.fit or request.path
    assert path is not None
    dataset = read_data(
        request, path, request.fit_split, request.fit_limit, network, checkpoint, progress, labels=labels
    )
    if request.fit is None and dataset.split is None:
        progress.remark("statistics are fitted on examples of --data itself; --fit-data names others")
    check_examples(network, checkpoint, dataset)
    return dataset


def read_data(
    request: DataRequest, path: Path | GivenData, split: Split, limit: int | None, network: AnyNetwork,
    checkpoint: Checkpoint, progress: Progress, *, labels: bool = True,
) -> Dataset:  # fmt: skip
    """Examples in memory, or from a function of the user's, a text, a folder of images, or a file of arrays."""
    if (request.image_size or request.moments) and not any(map(_may_be_images, request.paths())):
        raise UsageError(
            f"--image-size and --normalise are for images, and {path} has none",
            remedy="leave them away; arrays are taken as they are, and uint8 is divided by 255",
        )
    if isinstance(path, GivenData):
        return load_given(path, limit, labels=labels)
    if is_named(str(path)) and not path.exists():
        return load_named(str(path), split, limit, labels=labels)
    if is_hub_data(path):
        return _of_library(path, split, limit, _preparation(request, network, checkpoint), checkpoint, labels=labels)
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    if network.answers != "example" and path.suffix not in (".npz", ".safetensors"):
        if network.answers == "masked token":
            return load_masked_text(path, folder, request.sequence_length, limit, request.seed)
        return load_text(path, folder, request.sequence_length, limit)
    if image_root(path, split) is not None:
        return _images(request, path, split, limit, network, checkpoint, progress)
    return load_data(path, split, limit, labels=labels)


def _images(
    request: DataRequest, path: Path, split: Split, limit: int | None, network: AnyNetwork, checkpoint: Checkpoint,
    progress: Progress,
) -> Dataset:  # fmt: skip
    """A folder of images, prepared as was asked for, or as the checkpoint's own folder says."""
    config = checkpoint.config or {}
    prepare = _preparation(request, network, checkpoint)
    dataset, numbers = load_images(path, split, limit, prepare, config.get("label2id"))
    first = first_names([f"{number}: {name}" for name, number in numbers.items()], 4)
    progress.remark(f"{len(numbers)} classes, by the names of their folders: {first}")
    return dataset


def _preparation(request: DataRequest, network: AnyNetwork, checkpoint: Checkpoint) -> Preparation:
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    own = not (request.image_size or request.moments) and (folder / "preprocessor_config.json").exists()
    channels = network.width if isinstance(network, Network) and network.reads == "images" else None
    return Preparation(request.image_size, request.moments, channels, folder if own else None)


def _of_library(
    path: Path, split: Split, limit: int | None, prepare: Preparation, checkpoint: Checkpoint, *, labels: bool
) -> Dataset:
    """A data set of the `datasets` library; classes have the numbers of the network's config, if it knows them all."""
    dataset, classes = load_hub_data(path, split, limit, prepare, labels=labels)
    numbers = (checkpoint.config or {}).get("label2id")
    if classes and isinstance(numbers, Mapping) and all(type(numbers.get(name)) is int for name in classes):
        known = dataset.targets >= 0
        renumbered = torch.tensor([numbers[name] for name in classes])[dataset.targets.clamp(min=0)]
        dataset = replace(dataset, targets=torch.where(known, renumbered, dataset.targets))
    return dataset


def _may_be_images(path: Path) -> bool:
    return path.is_dir() or is_on_hub(str(path))


def batch_size_of(network: AnyNetwork) -> int:
    """Examples at a time, unless the user says otherwise."""
    return 512 if isinstance(network, Network) else network.batch_size
