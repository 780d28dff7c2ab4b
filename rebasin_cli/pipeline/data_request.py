"""The network and the examples that a user names: `--network`, `--data`, `--fit-data` and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rebasin_cli.checkpoints.checkpoint import is_on_hub
from rebasin_cli.evaluation.given import GivenData, GivenLoss, NetworkName
from rebasin_cli.evaluation.options import Kind, Moments, Polish, Split
from rebasin_cli.evaluation.user_code import is_named, module_files
from rebasin_cli.process import load_torch

if TYPE_CHECKING:  # they need torch
    from rebasin_cli.pipeline import Progress
    from rebasin_cli.pipeline.layouts import Pair
    from rebasin_cli.pipeline.polisher import Polisher
    from rebasin_cli.pipeline.scoring import Scorer


@dataclass(frozen=True, slots=True)
class DataRequest:
    """What to evaluate on, and with what; the fields are the options of the same names.

    Attributes:
        path: `--data`: a file, a folder, `hf:NAME`, `package.module:loader`, or examples in memory.
        fit: where statistics are fitted, if not on the training half of `path`; fit_limit: on how many examples;
            None: `FIT_EXAMPLES` for statistics, all for matching; fit_batch: in batches of how many.
        repairs: what to do to the points of the path, each a curve of its own.
        polish: how the weights of the merge that is written are fitted; polish_steps: of distillation.
        loss: how answers are judged; None for what the kind of targets says.
        metrics: what to measure besides loss and accuracy.
        seed: of what is masked in a text.
        taps: dim → module whose output counts its units (`--method activations`).
        image_size, moments: what is done to images of a folder, instead of what the checkpoint's own folder says.
        ensemble: whether a line has a curve of both ends' averaged answers; calibrate: whether every network is
            judged at a temperature of its own, fitted where statistics are.
        command: `--eval-command`, or `--eval-server` where it `serves`: stays alive and is asked point after point.
        timeout: seconds for one point; judge: a function in the place of a command.
    """

    path: Path | GivenData | None = None
    split: Split = "test"
    limit: int | None = None
    batch_size: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    fit: Path | GivenData | None = None
    fit_limit: int | None = None
    fit_batch: int = 1000
    repairs: tuple[Kind, ...] = ()
    network: NetworkName | None = None
    sequence_length: int | None = None
    command: str | None = None
    serves: bool = False
    timeout: float | None = None
    fit_split: Split = "train"
    metrics: tuple[str, ...] = ()
    seed: int = 0
    image_size: int | None = None
    moments: Moments | None = None
    taps: Mapping[str, str] = field(default_factory=dict)
    loss: str | None = None
    judge: GivenLoss | None = None
    polish: Polish | None = None
    polish_steps: int = 300
    ensemble: bool = False
    calibrate: bool = False

    @property
    def judges(self) -> bool:
        """Whether there is something to judge networks by, and not only examples to fit on."""
        return self.path is not None or self.command is not None or self.judge is not None

    def files(self) -> list[Path]:
        """The inputs that are files."""
        return [path for path in self.paths() if not is_named(str(path)) and not is_on_hub(str(path))]

    def paths(self) -> list[Path]:
        """What is named, whatever it is."""
        return [path for path in (self.path, self.fit) if isinstance(path, Path)]

    def inputs(self) -> list[Path]:
        """Every file that is read: no output may replace one."""
        return [*self.files(), *self.code()]

    def code(self) -> list[Path]:
        """The files of the user's own modules that are run."""
        paths = (str(path) for path in (self.path, self.fit) if isinstance(path, Path))
        named = (self.network, self.loss, *self.metrics, *paths)
        return [file for text in named if isinstance(text, str) and is_named(text) for file in module_files(text)]

    def scorer(self, pair: Pair, device: str, progress: Progress) -> Scorer | None:
        """What networks are judged by; None if there is nothing to judge them by. See `prepare_scorer`."""
        if not self.judges:
            return None
        load_torch()
        from rebasin_cli.pipeline.scoring import prepare_scorer

        return prepare_scorer(self, pair.layout, pair.a, device, progress)

    def polisher(self, pair: Pair, device: str, progress: Progress, scorer: Scorer | None) -> Polisher | None:
        """What fits a merge to its models; None if that was not asked for. See `prepare_polisher`."""
        if self.polish is None:
            return None
        load_torch()
        from rebasin_cli.pipeline.polisher import prepare_polisher

        return prepare_polisher(self, pair.layout, pair.a, device, progress, scorer)
