"""The network and the examples that a user names: `--network`, `--data`, `--fit-data` and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.evaluation.compatibility import check_examples, fitting_loss
from rebasin_cli.evaluation.data import Dataset, Split, load_data
from rebasin_cli.evaluation.images import Moments, Preparation, image_root, load_images
from rebasin_cli.evaluation.loaders import load_named
from rebasin_cli.evaluation.losses import Loss, check_name
from rebasin_cli.evaluation.networks.module_network import user_network
from rebasin_cli.evaluation.networks.network import Network
from rebasin_cli.evaluation.networks.pretrained import pretrained_network
from rebasin_cli.evaluation.networks.registry import FAMILIES, build_network
from rebasin_cli.evaluation.sweep import AnyNetwork
from rebasin_cli.evaluation.text import load_masked_text, load_text
from rebasin_cli.evaluation.user_code import is_named, module_files
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.repairer import Kind
from rebasin_cli.safe_text import first_names
from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class DataRequest:
    """What to evaluate on, and with what; the fields are the options of the same names.

    Attributes:
        path: `--data`: a file, a folder, or `package.module:loader`.
        fit: where statistics are fitted, if not on the training half of `path`; fit_limit: on how many examples;
            None: `FIT_EXAMPLES` for statistics, all for matching; fit_batch: in batches of how many.
        repairs: what to do to the points of the path, each a curve of its own.
        loss: how answers are judged; None for what the kind of targets says.
        metrics: what to measure besides loss and accuracy.
        seed: of what is masked in a text.
        taps: dim → module whose output counts its units (`--method activations`).
        image_size, moments: what is done to images of a folder, instead of what the checkpoint's own folder says.
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
    image_size: int | None = None
    moments: Moments | None = None
    taps: Mapping[str, str] = field(default_factory=dict)
    loss: str | None = None

    @property
    def judges(self) -> bool:
        """Whether there is something to judge networks by, and not only examples to fit on."""
        return self.path is not None or self.command is not None

    def files(self) -> list[Path]:
        """The inputs that are files."""
        return [path for path in (self.path, self.fit) if path is not None and not is_named(str(path))]

    def inputs(self) -> list[Path]:
        """Every file that is read: no output may replace one."""
        return [*self.files(), *self.code()]

    def code(self) -> list[Path]:
        """The files of the user's own modules that are run."""
        named = (self.network, self.loss, *self.metrics, *(str(path) for path in (self.path, self.fit) if path))
        return [file for text in named if text and is_named(text) for file in module_files(text)]


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
    """The user's own network, the one that ships for the architecture, or the one that config.json names."""
    if request.network is not None:
        return user_network(request.network, checkpoint, layout.prefix, request.options)
    config = checkpoint.config
    if layout.spec.name not in FAMILIES and config is not None and config.get("architectures"):
        folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        return pretrained_network(config, checkpoint, folder)
    return build_network(layout, checkpoint.infos, request.options)


def fitting_data(request: DataRequest, network: AnyNetwork, checkpoint: Checkpoint, progress: Progress) -> Dataset:
    """The examples to fit on; of data with two halves the training half. They fit the network."""
    path = request.fit or request.path
    assert path is not None
    dataset = read_data(request, path, request.fit_split, request.fit_limit, network, checkpoint, progress)
    if request.fit is None and dataset.split is None:
        progress.remark("statistics are fitted on examples of --data itself; --fit-data names others")
    check_examples(network, checkpoint, dataset)
    return dataset


def read_data(
    request: DataRequest, path: Path, split: Split, limit: int | None, network: AnyNetwork, checkpoint: Checkpoint,
    progress: Progress,
) -> Dataset:  # fmt: skip
    """Examples from a function of the user's, a text, a folder of images, or a file of arrays."""
    if (request.image_size or request.moments) and not any(file.is_dir() for file in request.files()):
        raise UsageError(
            f"--image-size and --normalise are for folders of images, and {path} is none",
            remedy="leave them away; arrays are taken as they are, and uint8 is divided by 255",
        )
    if is_named(str(path)) and not path.exists():
        return load_named(str(path), split, limit)
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    if network.answers != "example" and path.suffix not in (".npz", ".safetensors"):
        if network.answers == "masked token":
            return load_masked_text(path, folder, request.sequence_length, limit, request.seed)
        return load_text(path, folder, request.sequence_length, limit)
    if image_root(path, split) is not None:
        return _images(request, path, split, limit, network, checkpoint, progress)
    return load_data(path, split, limit)


def _images(
    request: DataRequest, path: Path, split: Split, limit: int | None, network: AnyNetwork, checkpoint: Checkpoint,
    progress: Progress,
) -> Dataset:  # fmt: skip
    """A folder of images, prepared as was asked for, or as the checkpoint's own folder says."""
    config = checkpoint.config or {}
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    own = not (request.image_size or request.moments) and (folder / "preprocessor_config.json").exists()
    channels = network.width if isinstance(network, Network) and network.reads == "images" else None
    prepare = Preparation(request.image_size, request.moments, channels, folder if own else None)
    dataset, numbers = load_images(path, split, limit, prepare, config.get("label2id"))
    first = first_names([f"{number}: {name}" for name, number in numbers.items()], 4)
    progress.remark(f"{len(numbers)} classes, by the names of their folders: {first}")
    return dataset


def batch_size_of(network: AnyNetwork) -> int:
    """Examples at a time, unless the user says otherwise."""
    return 512 if isinstance(network, Network) else network.batch_size
