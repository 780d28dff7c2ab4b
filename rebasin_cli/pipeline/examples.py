"""The network and the examples that a user names: `--network`, `--data`, `--fit-data` and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from rebasin_cli.checkpoints import Checkpoint
from rebasin_cli.evaluation import (
    FAMILIES,
    AnyNetwork,
    Dataset,
    Network,
    Split,
    build_network,
    check_fits,
    check_runs,
    is_named,
    load_data,
    load_masked_text,
    load_named,
    load_text,
    pretrained_network,
    user_network,
)
from rebasin_cli.pipeline.listener import Listener
from rebasin_cli.pipeline.repairing import Kind
from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class DataRequest:
    """What to evaluate on, and with what; the fields are the options of the same names.

    Attributes:
        path: `--data`: a file, a folder, or `package.module:loader`.
        fit: where statistics are fitted, if not on the training half of `path`; fit_limit: on how many examples;
            None: `FIT_EXAMPLES` for statistics, all for matching; fit_batch: in batches of how many.
        repairs: what to do to the points of the path, each a curve of its own.
        metrics: what to measure besides loss and accuracy.
        seed: of what is masked in a text.
        command: `--eval-command`; timeout: seconds for one point.
    """

    path: Path | None = None
    split: Split = "test"
    limit: int | None = None
    batch_size: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    fit: Path | None = None
    fit_limit: int | None = None
    fit_batch: int = 1000
    repairs: tuple[Kind, ...] = ()
    network: str | None = None
    sequence_length: int | None = None
    command: str | None = None
    timeout: float | None = None
    fit_split: Split = "train"
    metrics: tuple[str, ...] = ()
    seed: int = 0

    def files(self) -> list[Path]:
        """The inputs that are files."""
        return [path for path in (self.path, self.fit) if path is not None and not is_named(str(path))]


def network_and_data(
    request: DataRequest, layout: Layout, checkpoint: Checkpoint, listener: Listener
) -> tuple[AnyNetwork, Dataset]:
    """The network of a checkpoint and the examples of `--data`, which fit each other."""
    network = find_network(request, layout, checkpoint)
    for assumption in network.assumptions:
        listener.remark(f"not told by the shapes, so taken for granted: {assumption}")
    assert request.path is not None
    dataset = read_data(request, request.path, request.split, request.limit, network, checkpoint)
    check(network, checkpoint, dataset)
    return network, dataset


def find_network(request: DataRequest, layout: Layout, checkpoint: Checkpoint) -> AnyNetwork:
    """The user's own network, the one that ships for the architecture, or the one that config.json names."""
    if request.network is not None:
        return user_network(request.network, checkpoint, layout.prefix, request.options)
    config = checkpoint.config
    if layout.spec.name not in FAMILIES and config is not None and config.get("architectures"):
        folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        return pretrained_network(config, checkpoint, folder)
    return build_network(layout, checkpoint.infos, request.options)


def fitting_data(request: DataRequest, network: AnyNetwork, checkpoint: Checkpoint, listener: Listener) -> Dataset:
    """The examples that statistics are taken from; of data with two halves the training half."""
    path = request.fit or request.path
    assert path is not None
    dataset = read_data(request, path, request.fit_split, request.fit_limit, network, checkpoint)
    if request.fit is None and dataset.split is None:
        listener.remark("statistics are fitted on examples of --data itself; --fit-data names others")
    check(network, checkpoint, dataset)
    return dataset


def read_data(
    request: DataRequest, path: Path, split: Split, limit: int | None, network: AnyNetwork, checkpoint: Checkpoint
) -> Dataset:
    """Examples from a function of the user's, a text, or a file of arrays."""
    if is_named(str(path)) and not path.exists():
        return load_named(str(path), split, limit)
    if network.answers != "example" and path.suffix not in (".npz", ".safetensors"):
        folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        if network.answers == "masked token":
            return load_masked_text(path, folder, request.sequence_length, limit, request.seed)
        return load_text(path, folder, request.sequence_length, limit)
    return load_data(path, split, limit)


def check(network: AnyNetwork, state: Mapping[str, Tensor], dataset: Dataset) -> None:
    """See that examples fit a network, before any long work.

    Raises:
        ContentError: they do not.
    """
    if isinstance(network, Network):
        check_fits(network, dataset)
    else:
        check_runs(network, state, dataset)


def batch_size_of(network: AnyNetwork) -> int:
    """Examples at a time, unless the user says otherwise."""
    return 512 if isinstance(network, Network) else network.batch_size
