"""What scores a point of the path: a network on examples, or a command of the user's own."""

from __future__ import annotations

import math
import os
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.writer import write_checkpoint
from rebasin_cli.errors import ContentError, RebasinError, UsageError
from rebasin_cli.evaluation.commands import parse_command, run_command
from rebasin_cli.evaluation.compatibility import fitting_loss
from rebasin_cli.evaluation.data import IGNORED, Dataset
from rebasin_cli.evaluation.evaluate import AnyNetwork, Judging, evaluate_mixtures
from rebasin_cli.evaluation.given import GivenLoss
from rebasin_cli.evaluation.losses import Loss, blind_loss
from rebasin_cli.evaluation.metrics import Maker, check_metrics, find_metrics
from rebasin_cli.evaluation.options import CROSS_ENTROPY, Kind
from rebasin_cli.evaluation.scores import Scores
from rebasin_cli.evaluation.serving import EvaluationServer, parse_server
from rebasin_cli.matching.resources import free_memory
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.data import batch_size_of, fitting_data, network_and_data
from rebasin_cli.pipeline.data_request import DataRequest
from rebasin_cli.pipeline.statistics import FIT_EXAMPLES, Repairer
from rebasin_cli.spec import Layout

_BYTES = 8  # of a number at most, as networks are loaded


@dataclass(slots=True)
class NetworkScorer:
    """A network and the examples it is judged on, which fit each other.

    Attributes:
        loss: how answers are judged.
        metrics: what is measured besides loss and accuracy.
        repairer: what finishes the points of the path, if they are to be repaired; repairs: how.
        basis: what its figures depend on, by name.
        calibrate: examples on which a temperature is fitted for every network before it is judged.
        ensemble: whether a line has a curve of both ends' averaged answers.
    """

    network: AnyNetwork
    dataset: Dataset
    loss: Loss
    batch_size: int
    device: str
    metrics: tuple[Maker, ...] = ()
    repairer: Repairer | None = None
    repairs: tuple[Kind, ...] = ()
    basis: Mapping[str, str] = field(default_factory=dict)
    calibrate: Dataset | None = None
    ensemble: bool = False

    @property
    def examples(self) -> int:
        """How many it looks at."""
        return len(self.dataset)

    @property
    def source(self) -> str:
        """What they come from."""
        source = self.dataset.source
        return os.path.abspath(source) if os.path.exists(source) else source

    @property
    def split(self) -> str | None:
        """Which half of it."""
        return self.dataset.split

    @property
    def unit(self) -> str:
        """Of the loss."""
        return self.loss.unit

    @property
    def chance(self) -> float:
        """Accuracy of always guessing the commonest label; 1.0 where that says nothing."""
        if self.dataset.targets.dim() > 1 or not self.loss.classes:
            return 1.0
        labels = self.dataset.targets[self.dataset.targets != IGNORED]
        return float(labels.bincount().max()) / len(labels)

    @property
    def blind(self) -> float:
        """Loss of the best answer that looks at no input; infinite where that says nothing or is not known."""
        return blind_loss(self.loss, self.dataset.targets)

    def measure(self, state: Mapping[str, Tensor]) -> Scores:
        """What a state is worth."""
        return self._measured((state,), ((1.0,),))[0]

    def measure_together(self, states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> Scores:
        """What the mean answers of several states are worth; see `measure_mixtures`."""
        return self.measure_mixtures(states, (weights,))[0]

    def measure_mixtures(
        self, states: Sequence[Mapping[str, Tensor]], mixtures: Sequence[Sequence[float]]
    ) -> list[Scores]:
        """What the mean answers of several states are worth, by several weightings.

        Raises:
            ContentError: they have no mean, or memory does not hold all states.
        """
        numbers = sum(math.prod(shape) for shape in self.network.shapes.values())
        if self.device == "cpu" and numbers * _BYTES * len(states) > free_memory():
            raise ContentError(f"memory does not hold {len(states)} models at once")
        return self._measured(states, mixtures)

    def _measured(self, states: Sequence[Mapping[str, Tensor]], mixtures: Sequence[Sequence[float]]) -> list[Scores]:
        judging = Judging(self.loss, self.batch_size, self.device, self.metrics, self.calibrate)
        return evaluate_mixtures(self.network, states, mixtures, self.dataset, judging)


class _Outside:
    """What judges networks without showing on what: the attributes of `NetworkScorer`, where nothing is known."""

    examples: int = 0
    split: str | None = None
    repairer: Repairer | None = None
    repairs: tuple[Kind, ...] = ()
    ensemble: bool = False
    chance: float = 1.0
    blind: float = math.inf


@dataclass
class CommandScorer(_Outside):
    """A command that is given each point as a checkpoint like A, in a temporary place: `ask` does."""

    ask: Callable[[Path], Scores]
    like: Checkpoint
    source: str
    unit: str = "the command's own unit"

    @property
    def basis(self) -> Mapping[str, str]:
        """What its figures depend on."""
        return {"command": self.source}

    def measure(self, state: Mapping[str, Tensor]) -> Scores:
        """What the command says of a state.

        Raises:
            ContentError: it failed, took too long or gave no figure.
        """
        with tempfile.TemporaryDirectory(prefix="rebasin-") as folder:
            target = Path(folder) / ("point" if self.like.is_folder else "point.safetensors")
            write_checkpoint(target, self.like, state.__getitem__, metadata={})
            return self.ask(target)


@dataclass
class FunctionScorer(_Outside):
    """A function in memory that is given the tensors of each point."""

    judge: GivenLoss
    unit: str = "the function's own unit"

    @property
    def source(self) -> str:
        """What it is called."""
        return self.judge.name

    @property
    def basis(self) -> Mapping[str, str]:
        """What its figures depend on."""
        return {"function": self.judge.name}

    def measure(self, state: Mapping[str, Tensor]) -> Scores:
        """What the function says of a state.

        Raises:
            UsageError: it raised, or returned no number. So a sweep ends there: the function is the caller's own.
        """
        remedy = "it is given a network and returns its loss, a float (or a tensor of one number)"
        try:
            with torch.no_grad():
                found = self.judge.function(dict(state))
        except RebasinError:
            raise
        except Exception as error:
            raise UsageError(
                f"--loss: {self.source} raised {type(error).__name__}: {error}", where=_place_of(error), remedy=remedy
            ) from error
        try:
            return Scores(float(found))
        except (TypeError, ValueError, RuntimeError) as error:
            what = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UsageError(f"--loss: {self.source} returned {what}, which is no number", remedy=remedy) from error


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _place_of(error: Exception) -> str:
    """The first line of the caller's own code on the way to what raised."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in frames if not frame.filename.startswith(_OURS)), frames[-1])
    return f"{os.path.basename(frame.filename)}:{frame.lineno}, in {frame.name}"


Scorer = NetworkScorer | CommandScorer | FunctionScorer


def prepare_scorer(
    request: DataRequest, layout: Layout, checkpoint: Checkpoint, device: str, progress: Progress
) -> Scorer:
    """Find the network, read the data, see that they fit.

    Args:
        checkpoint: A, to whose names `layout` is bound.

    Raises:
        RebasinError: no network for the architecture, unknown options, or data that does not fit it.
    """
    if request.judge is not None:
        _refuse_beside_function(request)
        return FunctionScorer(request.judge)
    if request.command is not None:
        ask = _asking(request)
        if request.path is not None:
            option = "--eval-server" if request.serves else "--eval-command"
            raise UsageError(f"{option} and --data are two judges", remedy="leave one of them away")
        if request.repairs:
            raise UsageError("--repair looks inside a network, and a command shows none", remedy="use --data instead")
        _refuse_answers(request, "a command")
        if request.loss:
            raise UsageError("--loss is for --data; a command's loss is what it prints", remedy="leave it away")
        if request.metrics:
            raise UsageError(
                "--metric is for --data; a command's metrics are the numbers in the JSON that it prints",
                remedy="leave it away",
            )
        return CommandScorer(ask, checkpoint, request.command)
    metrics = find_metrics(request.metrics)
    network, dataset, loss = network_and_data(request, layout, checkpoint, progress)
    check_metrics(request.metrics, loss)
    scorer = NetworkScorer(network, dataset, loss, request.batch_size or batch_size_of(network), device, metrics)
    if network.answers != "example" and loss.name == CROSS_ENTROPY:
        scorer.metrics = find_metrics(("perplexity", *request.metrics))
    scorer.basis = {
        "examples": dataset.sha256(),
        "loss": loss.name,
        "network": str(request.network or network.family),
        "network options": ",".join(f"{name}={value}" for name, value in sorted(request.options.items())),
        "metrics": ",".join(request.metrics),
    }
    scorer.ensemble = request.ensemble
    limited = replace(request, fit_limit=request.fit_limit or FIT_EXAMPLES)
    if request.calibrate:
        if loss.name != CROSS_ENTROPY:
            raise UsageError(
                f"--calibrate divides logits by a temperature, and --loss {loss.name} judges others",
                remedy="leave it away, or judge classes: --loss cross-entropy",
            )
        scorer.calibrate = fitting_data(limited, network, checkpoint, progress, labels=True)
        fitting_loss(CROSS_ENTROPY, network, checkpoint, scorer.calibrate)
        scorer.basis = {**scorer.basis, "temperature fitted on": scorer.calibrate.sha256()}
    if request.repairs:
        examples = fitting_data(limited, network, checkpoint, progress)
        scorer.repairer, scorer.repairs = Repairer(network, examples, device, progress), request.repairs
        for kind in request.repairs:
            scorer.repairer.check(kind)
    return scorer


def _asking(request: DataRequest) -> Callable[[Path], Scores]:
    """What a path of a checkpoint is handed to: a command for each, or one that stays alive.

    Raises:
        UsageError: the command cannot be read, or there is no such program.
    """
    assert request.command is not None
    if request.serves:
        return EvaluationServer(parse_server(request.command), request.timeout).ask
    return partial(run_command, parse_command(request.command, Path(tempfile.gettempdir())), timeout=request.timeout)


def _refuse_beside_function(request: DataRequest) -> None:
    """Refuse what says nothing where a function judges.

    Raises:
        UsageError: naming it.
    """
    for what, given in (("--data", request.path), ("--eval-command", request.command)):
        if given is not None:
            raise UsageError(f"--loss FUNCTION and {what} are two judges", remedy="leave one of them away")
    if request.repairs:
        raise UsageError(
            "--repair looks inside a network, and a function shows none", remedy="use --data and a named --loss instead"
        )
    _refuse_answers(request, "a function")
    if request.metrics:
        raise UsageError("--metric is for --data; a function returns one number", remedy="leave it away")


def _refuse_answers(request: DataRequest, judge: str) -> None:
    """Refuse what is computed from a network's answers, which only examples give."""
    for option, given in (("--ensemble", request.ensemble), ("--calibrate", request.calibrate)):
        if given:
            raise UsageError(
                f"{option} is about a network's answers to examples, and {judge} shows none",
                remedy="use --data instead",
            )


def score_or_nan(scorer: Scorer, state: Mapping[str, Tensor], failures: dict[str, str], place: str) -> Scores:
    """What a state is worth; a point that cannot be measured is NaN, and `failures` says why."""
    try:
        return scorer.measure(state)
    except ContentError as error:
        failures[place] = error.what
        return Scores(math.nan)
