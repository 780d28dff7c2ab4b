"""What a point of the path is judged by: a network on examples, or a command of the user's own."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from rebasin_cli.checkpoints import Checkpoint, write_checkpoint
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation import (
    FAMILIES,
    AnyNetwork,
    Dataset,
    Maker,
    Network,
    Scores,
    Split,
    build_network,
    check_fits,
    check_runs,
    evaluate,
    find_metrics,
    is_named,
    load_data,
    load_masked_text,
    load_named,
    load_text,
    parse_command,
    pretrained_network,
    run_command,
    user_network,
)
from rebasin_cli.pipeline.listener import Listener
from rebasin_cli.pipeline.repairing import FIT_EXAMPLES, Kind, Repairer
from rebasin_cli.report.document import NATS
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


@dataclass(slots=True)
class NetworkJudge:
    """A network and the examples it is judged on, which fit each other.

    Attributes:
        metrics: what is measured besides loss and accuracy.
        repairer: what finishes the points of the path, if they are to be repaired; repairs: how.
        basis: what its figures hang on, by name.
    """

    network: AnyNetwork
    dataset: Dataset
    batch_size: int
    device: str
    metrics: tuple[Maker, ...] = ()
    repairer: Repairer | None = None
    repairs: tuple[Kind, ...] = ()
    basis: Mapping[str, str] = field(default_factory=dict)

    @property
    def examples(self) -> int:
        """How many it looks at."""
        return len(self.dataset)

    @property
    def source(self) -> str:
        """What they come from."""
        return self.dataset.source if is_named(self.dataset.source) else os.path.abspath(self.dataset.source)

    @property
    def split(self) -> str | None:
        """Which half of it."""
        return self.dataset.split

    @property
    def unit(self) -> str:
        """Of the loss."""
        asked = self.network.answers
        return NATS if asked == "example" else f"nats per {asked}"

    @property
    def chance(self) -> float:
        """Accuracy of always guessing the commonest label; 1.0 where that says nothing."""
        if self.dataset.targets.dim() > 1:
            return 1.0
        return float(self.dataset.targets.bincount().max()) / len(self.dataset)

    def measure(self, state: Mapping[str, Tensor]) -> Scores:
        """What a state is worth."""
        return evaluate(
            self.network, state, self.dataset,
            batch_size=self.batch_size, device=self.device, metrics=self.metrics,
        )  # fmt: skip


@dataclass(slots=True)
class CommandJudge:
    """A command that is given each point as a checkpoint like A, in a temporary place.

    The attributes are those of `NetworkJudge`; how many examples the command looks at is not known (0).
    """

    words: tuple[str, ...]
    like: Checkpoint
    timeout: float | None
    source: str
    examples: int = 0
    split: str | None = None
    repairer: Repairer | None = None
    repairs: tuple[Kind, ...] = ()
    chance: float = 1.0
    unit: str = "the command's own unit"

    @property
    def basis(self) -> Mapping[str, str]:
        """What its figures hang on."""
        return {"command": self.source}

    def measure(self, state: Mapping[str, Tensor]) -> Scores:
        """What the command says of a state.

        Raises:
            ContentError: it failed, took too long or gave no figure.
        """
        with tempfile.TemporaryDirectory(prefix="rebasin-") as folder:
            target = Path(folder) / ("point" if self.like.is_folder else "point.safetensors")
            write_checkpoint(target, self.like, state.__getitem__, metadata={})
            return run_command(self.words, target, self.timeout)


Judge = NetworkJudge | CommandJudge


def prepare_judge(
    request: DataRequest, layout: Layout, checkpoint: Checkpoint, device: str, listener: Listener
) -> Judge:
    """Find the network, read the data, see that they fit.

    Args:
        checkpoint: A, to whose names `layout` is bound.

    Raises:
        RebasinError: no network for the architecture, unknown options, or data that does not fit it.
    """
    if request.command is not None:
        words = parse_command(request.command)
        if request.path is not None:
            raise UsageError("--eval-command and --data are two judges", remedy="leave one of them away")
        if request.repairs:
            raise UsageError("--repair looks inside a network, and a command shows none", remedy="use --data instead")
        if request.metrics:
            raise UsageError(
                "--metric is for --data; a command's metrics are the numbers in the JSON that it prints",
                remedy="leave it away",
            )
        return CommandJudge(words, checkpoint, request.timeout, request.command)
    metrics = find_metrics(request.metrics)
    network, dataset = network_and_data(request, layout, checkpoint, listener)
    judge = NetworkJudge(network, dataset, request.batch_size or batch_size_of(network), device, metrics)
    if network.answers != "example":
        judge.metrics = find_metrics(("perplexity", *request.metrics))
    judge.basis = {
        "examples": dataset.sha256(),
        "network": request.network or network.family,
        "network options": ",".join(f"{name}={value}" for name, value in sorted(request.options.items())),
        "metrics": ",".join(request.metrics),
    }
    if request.repairs:
        limited = replace(request, fit_limit=request.fit_limit or FIT_EXAMPLES)
        examples = fitting_data(limited, network, checkpoint, listener)
        judge.repairer, judge.repairs = Repairer(network, examples, device, listener), request.repairs
        for kind in request.repairs:
            judge.repairer.check(kind)
    return judge


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


def measured(judge: Judge, state: Mapping[str, Tensor], failures: dict[str, str], place: str) -> Scores:
    """What a state is worth; a point that cannot be measured is NaN, and `failures` says why."""
    try:
        return judge.measure(state)
    except ContentError as error:
        failures[place] = error.what
        return Scores(math.nan)
