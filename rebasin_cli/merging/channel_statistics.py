"""Statistics after merging: running averages recomputed, and each channel's mean and deviation brought back.

Between two networks the variance of activations collapses, even where they are perfectly aligned (REPAIR, Jordan et
al. 2022, arXiv:2211.08403). BatchNorm's running statistics belong to neither end's activations and are computed
again; in any network each channel can be rescaled so that its mean and *standard deviation* are interpolated between
the ends'. Both end as new values of tensors that the checkpoint already has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.hooks import Layer, Run, Taps, beside_channels, per_channel
from rebasin_cli.safe_text import first_names

_NAMED, _REST = 4, " and {} more layers"  # layers that a remark names, and how it ends

DEAD = 1e-6
"""Share of the wanted variance that is added to what is there: a channel that died on the way is not blown up by
more than a thousand times."""

Params = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Channels:
    """Mean and standard deviation of every channel of one layer's output; float64, shape (channels,)."""

    mean: Tensor
    deviation: Tensor

    @staticmethod
    def mixed(parts: Sequence[Channels], weights: Sequence[float]) -> Channels:
        """Of several networks; weights sum to 1. Deviations are interpolated, not variances (REPAIR, eq. 3)."""
        along = torch.tensor(weights, dtype=torch.float64, device=parts[0].mean.device)
        mean, deviation = (torch.stack(v) for v in ([p.mean for p in parts], [p.deviation for p in parts]))
        return Channels(along @ mean, along @ deviation)  # (networks,) @ (networks, channels)


@dataclass(frozen=True, slots=True)
class Repaired:
    """New values for some of a network's tensors.

    Attributes:
        changed: by key, in the dtype they came in; every other tensor stays as it is.
        remarks: layers that could not hold (all of) their correction, and why.
    """

    changed: Mapping[str, Tensor]
    remarks: tuple[str, ...] = ()


def reset_statistics(params: Params, run: Run) -> Repaired:
    """Recompute every running mean and variance: a training-mode pass, cumulative average over its batches.

    As PyTorch's BatchNorm with `momentum=None`: layers normalise with the batch's own statistics, later ones see
    what earlier ones make of it, and the variances that are kept are unbiased.
    """
    own = _copied(params)
    taps = _Reset(own)
    run(own, taps)
    return Repaired(taps.statistics(params))


def measure_channels(params: Params, run: Run) -> dict[str, Channels]:
    """Mean and deviation of every layer's output that a repair corrects, over all examples and positions.

    These are the outputs of linear layers and convolutions; of one with a normalisation right behind it those of
    the normalisation; not the last layer's, which are the network's answers.
    """
    taps = _Measure()
    run(_copied(params), taps)
    return taps.channels()


def repair_channels(params: Params, run: Run, goals: Mapping[str, Channels]) -> Repaired:
    """Bring every channel to its goal, layer by layer with the earlier corrections active, and fold them in.

    Running statistics are recomputed in the same pass. A correction goes into the layer's weight and bias. The
    statistics are those of the batches, averaged: of one batch that holds all examples the goals are met exactly.
    """
    own = _copied(params)
    taps = _Repair(own, goals)
    run(own, taps)
    return Repaired({**taps.statistics(params), **taps.folded(params)}, tuple(taps.remarks(params)))


class _Measure(Taps):
    def __init__(self) -> None:
        self.sums: dict[str, _Sums] = {}
        self.layers: dict[str, Layer] = {}
        self.covered: set[str] = set()
        self.last: tuple[Layer, Tensor] | None = None

    def entering(self, layer: Layer, x: Tensor) -> None:
        if layer.kind == "norm" and self.last is not None and self.last[1] is x:
            self.covered.add(self.last[0].name)  # its channels are corrected behind the normalisation
            self.layers[layer.name] = layer

    def leaving(self, layer: Layer, y: Tensor) -> Tensor:
        if layer.kind != "norm":
            self.layers[layer.name] = layer
        if layer.name in self.layers and layer.name not in self.covered:
            self.sums.setdefault(layer.name, _Sums()).add(per_channel(layer, y))
        self.last = (layer, y)
        return y

    def channels(self) -> dict[str, Channels]:
        head = self.last[0].name if self.last else ""
        return {name: sums.channels() for name, sums in self.sums.items() if name not in self.covered and name != head}


class _Reset(Taps):
    unbiased = False  # in training mode a batch is normalised with its biased variance

    def __init__(self, params: dict[str, Tensor]) -> None:
        self.params = params
        self.means: dict[str, _Average] = {}
        self.variances: dict[str, _Average] = {}

    def entering(self, layer: Layer, x: Tensor) -> None:
        mean_key, variance_key = f"{layer.name}.running_mean", f"{layer.name}.running_var"
        if layer.kind != "norm" or mean_key not in self.params:
            return
        rows = per_channel(layer, x)
        variance, mean = torch.var_mean(rows, 0, correction=0)
        self.params[mean_key].copy_(mean)  # in place: a module reads this very tensor
        unbiased = variance * (len(rows) / (len(rows) - 1)) if len(rows) > 1 else variance
        self.params[variance_key].copy_(unbiased if self.unbiased else variance)
        self.means.setdefault(mean_key, _Average()).add(mean)
        self.variances.setdefault(variance_key, _Average()).add(unbiased)

    def statistics(self, like: Params) -> dict[str, Tensor]:
        return {key: a.value.to(like[key]) for key, a in (*self.means.items(), *self.variances.items())}


class _Repair(_Reset):
    unbiased = True  # corrections are for what the layer makes in evaluation mode, with the variances that are kept

    def __init__(self, params: dict[str, Tensor], goals: Mapping[str, Channels]) -> None:
        super().__init__(params)
        self.goals = goals
        self.layers: dict[str, Layer] = {}
        self.found: dict[str, tuple[_Average, _Average]] = {}

    def leaving(self, layer: Layer, y: Tensor) -> Tensor:
        goal = self.goals.get(layer.name)
        if goal is None or layer.weight not in self.params:
            return y
        self.layers[layer.name] = layer
        variance, mean = torch.var_mean(per_channel(layer, y), 0, correction=0)
        means, variances = self.found.setdefault(layer.name, (_Average(), _Average()))
        means.add(mean)
        variances.add(variance)
        scale, shift = self._correction(layer, goal, mean.double(), variance.double())
        return torch.addcmul(beside_channels(layer, shift.to(y), y), y, beside_channels(layer, scale.to(y), y))

    def _correction(self, layer: Layer, goal: Channels, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """y → scale · y + shift, for each channel."""
        wanted = goal.deviation.to(mean.device)
        there = (variance + DEAD * wanted.square()).sqrt()
        scale = torch.where(there > 0, wanted / there, torch.ones_like(there))
        shift = goal.mean.to(mean.device) - scale * mean
        return scale, shift if layer.bias in self.params else torch.zeros_like(shift)

    def folded(self, like: Params) -> dict[str, Tensor]:
        changed: dict[str, Tensor] = {}
        for name, (means, variances) in self.found.items():
            layer = self.layers[name]
            scale, shift = self._correction(layer, self.goals[name], means.value, variances.value)
            weight = like[layer.weight]
            along = [1] * weight.dim()
            along[layer.outputs] = -1
            changed[layer.weight] = (weight.double() * scale.reshape(along)).to(weight.dtype)
            if layer.bias in like:
                changed[layer.bias] = (like[layer.bias].double() * scale + shift).to(like[layer.bias].dtype)
        return changed

    def remarks(self, like: Params) -> Iterator[str]:
        unscaled = [name for name in self.goals if f"{name}.weight" not in like]
        unmoved = [name for name in self.found if self.layers[name].bias not in like]
        if unscaled:
            yield f"{first_names(unscaled, _NAMED, _REST)}: no weight for each channel, so nothing is corrected there"
        if unmoved:
            yield f"{first_names(unmoved, _NAMED, _REST)}: no bias, so deviations are corrected there and means are not"


class _Sums:
    """Count, sums and sums of squares of every channel, in float64, about the first batch's mean."""

    def __init__(self) -> None:
        self.count = 0
        self.about: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        rows = rows.double()  # (observations, channels)
        if self.about is None:
            self.about = rows.mean(0)
            self.sum, self.square = torch.zeros_like(self.about), torch.zeros_like(self.about)
        rows = rows - self.about  # squares of what is far from zero would lose the deviation
        self.count += len(rows)
        self.sum += rows.sum(0)
        self.square += rows.square().sum(0)

    def channels(self) -> Channels:
        assert self.about is not None
        mean = self.sum / self.count
        return Channels(self.about + mean, (self.square / self.count - mean.square()).clamp(min=0).sqrt())


class _Average:
    """The mean over batches, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.value = torch.zeros(())

    def add(self, value: Tensor) -> None:
        self.count += 1
        value = value.double()
        self.value = value if self.count == 1 else self.value + (value - self.value) / self.count


def _copied(params: Params) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in params.items()}
