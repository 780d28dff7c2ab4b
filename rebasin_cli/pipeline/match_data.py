"""What methods that look at data are given: the network, run over examples that the report does not use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import ContentError, UsageError, did_you_mean
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.evaluate import AnyNetwork, Judging, evaluate, pair_runner, targets_for
from rebasin_cli.evaluation.losses import Loss
from rebasin_cli.evaluation.networks.pretrained import PretrainedNetwork
from rebasin_cli.hooks import Layer, PairRun, Taps
from rebasin_cli.matching.data.channels import channel_axis, segment_of
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.data import batch_size_of, find_network, fitting_data, settle_loss
from rebasin_cli.pipeline.data_request import DataRequest
from rebasin_cli.safe_text import first_names
from rebasin_cli.spec import Layout

HELD_APART = 5
"""One of this many examples is held apart where a method chooses between permutations."""


@dataclass(frozen=True, slots=True, eq=False)
class MatchData:
    """A network and the examples that a method may look at.

    Attributes:
        taps: dim → module whose output counts its units.
        criterion: how answers are judged; None where the method looks at no loss.
        seen: what gradients and activations come from; apart: what permutations are chosen by.
        batch: examples at a time.
    """

    network: AnyNetwork
    seen: Dataset
    apart: Dataset
    batch: int
    device: str
    taps: Mapping[str, str] = field(default_factory=dict)
    criterion: Loss | None = None

    @property
    def prefix(self) -> str:
        """What stands before the network's names in the checkpoint."""
        return self.network.prefix

    @property
    def steps(self) -> int:
        """Batches in `seen`."""
        return max(1, len(self.seen) // self.batch)

    def pair_run(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> PairRun:
        """Runs A and B side by side over what is seen."""
        states = tuple(self.network.load(state, self.device) for state in (a, b))
        return pair_runner(self.network, states[0], states[1], self.seen, min(self.batch, batch_size_of(self.network)))

    def loss(self, state: Mapping[str, Tensor], step: int) -> Tensor:
        """Mean loss on a batch of what is seen; gradients flow."""
        assert self.criterion is not None
        batch = self.seen.part(slice(step * self.batch, (step + 1) * self.batch))
        params = self.network.load(state, self.device)
        outputs = self.network.outputs(params, batch.inputs)
        return self.criterion.mean(self.network.family, outputs, targets_for(params, batch.targets))

    def held_apart(self, state: Mapping[str, Tensor]) -> float:
        """The loss on what is held apart."""
        judging = Judging(self.criterion, batch_size_of(self.network), self.device)
        return evaluate(self.network, state, self.apart, judging).loss


def prepare_match_data(
    request: DataRequest, layout: Layout, checkpoint: Checkpoint, method: str, device: str, progress: Progress
) -> MatchData:
    """Find the network and the examples for a method that looks at them.

    Raises:
        RebasinError: no network, or examples that do not fit it.
    """
    network = find_network(request, layout, checkpoint)
    dataset = fitting_data(request, network, checkpoint, progress, labels=method != "activations")
    batch = request.fit_batch
    if method == "activations":
        taps = _taps(request.taps, network, checkpoint, layout, dataset)
        return MatchData(network, dataset, dataset, batch, device, taps)
    if isinstance(network, PretrainedNetwork):
        raise ContentError(
            f"--method {method} needs gradients, which do not flow through the loader of transformers",
            remedy="name the network with --network, or use --method activations",
        )
    if any(name.endswith("running_var") for name in network.shapes):
        progress.warn(
            f"--method {method} sees BatchNorm's running statistics interpolated, not recomputed: "
            "its losses are higher than those of a repaired network"
        )
    loss = settle_loss(request.loss, network, checkpoint, dataset, progress)
    count = max(1, len(dataset) // HELD_APART)
    if len(dataset) < 2:
        raise ContentError(f"--method {method} holds examples apart, and there is one", remedy="give more examples")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    apart, seen = (dataset.part(rows) for rows in (order[:count], order[count:]))
    fitting = MatchData(network, seen, apart, min(batch, len(seen)), device, criterion=loss)
    _check_gradient(fitting, checkpoint, method)
    return fitting


def _check_gradient(fitting: MatchData, state: Mapping[str, Tensor], method: str) -> None:
    """See that the loss of A is a number and has a gradient.

    Raises:
        ContentError: it has none, or is not finite.
    """
    assert fitting.criterion is not None
    free = {
        key: tensor.float().requires_grad_() if tensor.is_floating_point() else tensor
        for key, tensor in ((key, state[key]) for key in state)
    }
    loss = fitting.loss(free, 0)
    if not loss.requires_grad:
        raise ContentError(
            f"--method {method} goes along a gradient, and --loss {fitting.criterion.name} has none",
            remedy="return a tensor computed from the outputs by torch alone, without item(), numpy or no_grad",
        )
    seen, apart = loss.item(), fitting.held_apart(state)
    if not (math.isfinite(seen) and math.isfinite(apart)):
        raise ContentError(
            f"--method {method}: A's loss ({fitting.criterion.name}) is {seen:g} on the examples fitted on, and "
            f"{apart:g} on those held apart",
            where=fitting.seen.source,
            remedy="use the data that the network was trained for, or another --loss",
        )


def _taps(
    wanted: Mapping[str, str], network: AnyNetwork, state: Mapping[str, Tensor], layout: Layout, dataset: Dataset
) -> dict[str, str]:
    """Dim → module, as the network calls it; every dim moves, and its module has a channel for each of its units.

    Raises:
        UsageError: there is no such dim or module. ContentError: the module makes something else, or nothing.
    """
    modules = {network.prefix + name: name for name in network.modules()}
    for dim, module in wanted.items():
        for word, known, what in ((dim, layout.moving(), "dim that moves"), (module, modules, "module")):
            if word not in known:
                hint = did_you_mean(word, known) or f"there are {first_names(known, 6)}"
                raise UsageError(
                    f"--tap {dim}={module}: there is no {what} `{word}`; {hint}",
                    remedy="`rebasin inspect` shows the dims; modules are called as in the keys of the checkpoint",
                )
    found = {dim: modules[module] for dim, module in wanted.items()}
    watch = _Shapes(frozenset(found.values()))
    if found:
        with torch.inference_mode():
            network.outputs(network.load(state), dataset.part(slice(1)).inputs, watch)
    for dim, module in found.items():
        units = segment_of(layout, dim).channels.numel()
        shape = watch.found.get(module)
        if shape is None or channel_axis(shape, units) is None:
            makes = "did not run, or makes no tensor" if shape is None else f"makes {list(shape)} of one example"
            raise ContentError(
                f"--tap {dim}={wanted[dim]}: the dim has {units} units, and the module {makes}",
                remedy="name a module whose output has a channel for each of the dim's units",
            )
    return found


class _Shapes(Taps):
    """Remembers the shape of what modules make."""

    def __init__(self, modules: frozenset[str]) -> None:
        self.modules, self.found = modules, dict[str, tuple[int, ...]]()

    def leaving(self, layer: Layer, y: Tensor) -> Tensor:
        self.found[layer.name] = tuple(y.shape)
        return y
