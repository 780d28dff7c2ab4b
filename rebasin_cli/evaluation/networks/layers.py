"""The layers that networks are made of, as functions of (parameters, name of the layer, input)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor

from rebasin_cli.errors import UsageError
from rebasin_cli.evaluation.networks.network import Params, entering, leaving
from rebasin_cli.evaluation.networks.options import Option
from rebasin_cli.hooks import Layer

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": F.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": F.sigmoid,
}
DEFAULT_EPS = 1e-5  # PyTorch's, for BatchNorm, LayerNorm and GroupNorm alike

ACTIVATION_OPTION = Option("activation", tuple(ACTIVATIONS), "the nonlinearity; relu if not given")
NORM_OPTION = Option(
    "norm",
    ("layernorm", "groupnorm1"),
    "a normalisation without running statistics: layernorm, over the channels at each position (the default), "
    "or groupnorm1, over channels and positions; both have the same shapes",
)
EPS_OPTION = Option(
    "norm-eps", (), "the number added to variances; 1e-5 (PyTorch's) if not given; Flax's LayerNorm has 1e-6"
)


def linear(params: Params, name: str, x: Tensor) -> Tensor:
    """(N, in) → (N, out)."""
    layer = Layer(name, "linear", channels=-1)
    entering(params, layer, x)
    return leaving(params, layer, F.linear(x, params[layer.weight], params.get(layer.bias)))


def convolve(params: Params, name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
    """(N, C, H, W) → (N, out, H', W'); "same" padding if none is given; as many groups as the weight says."""
    layer = Layer(name, "convolution", channels=1)
    entering(params, layer, x)
    weight = params[layer.weight]  # (out, C / groups, kernel, kernel)
    pads = (weight.shape[2] // 2, weight.shape[3] // 2) if padding is None else padding
    groups = x.shape[1] // weight.shape[1]
    y = F.conv2d(x, weight, params.get(layer.bias), stride=stride, padding=pads, groups=groups)
    return leaving(params, layer, y)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How the layers with a weight for each channel normalise; those with running statistics are BatchNorm."""

    kind: Literal["layernorm", "groupnorm1"] = "layernorm"
    eps: float = DEFAULT_EPS

    def __call__(self, params: Params, name: str, x: Tensor) -> Tensor:
        """(N, C, …) → the same shape."""
        layer = Layer(name, "norm", channels=1)
        entering(params, layer, x)
        return leaving(params, layer, self._normalised(params, name, x))

    def _normalised(self, params: Params, name: str, x: Tensor) -> Tensor:
        weight, bias = params.get(f"{name}.weight"), params.get(f"{name}.bias")
        mean = params.get(f"{name}.running_mean")
        if mean is not None:
            return F.batch_norm(x, mean, params[f"{name}.running_var"], weight, bias, eps=self.eps)
        if self.kind == "groupnorm1":
            return F.group_norm(x, 1, weight, bias, eps=self.eps)
        last = x.movedim(1, -1)  # (N, …, C)
        return F.layer_norm(last, (x.shape[1],), weight, bias, eps=self.eps).movedim(-1, 1)


def choose_normalisation(
    options: Mapping[str, str], names: Collection[str], keys: Collection[str]
) -> tuple[Normalisation, tuple[str, ...]]:
    """The normalisation of a network whose normalising layers are `names`, and what was assumed about it.

    Raises:
        UsageError: an option speaks of a normalisation that the network does not have, or is not a number.
    """
    plain = [name for name in names if f"{name}.running_mean" not in keys]
    given = options.get("norm")
    if given and not plain:
        reason = "has running statistics, so it is BatchNorm" if names else "has no normalisation"
        raise UsageError(f"`norm={given}` does not fit: the network {reason}", remedy="leave the option out")
    if "norm-eps" in options and not names:
        raise UsageError("`norm-eps` does not fit: the network has no normalisation", remedy="leave the option out")
    assumed = []
    if plain and not given:
        assumed.append(
            "normalisation is LayerNorm over the channels at each position (option norm=groupnorm1: over all)"
        )
    kind = cast(Literal["layernorm", "groupnorm1"], given or "layernorm")
    return Normalisation(kind, _parse_eps(options.get("norm-eps"))), tuple(assumed)


def choose_activation(options: Mapping[str, str]) -> tuple[Callable[[Tensor], Tensor], tuple[str, ...]]:
    """The nonlinearity, and what was assumed about it."""
    given = options.get("activation")
    assumed = () if given else ("the nonlinearity is ReLU (option activation=…)",)
    return ACTIVATIONS[given or "relu"], assumed


def _parse_eps(text: str | None) -> float:
    if text is None:
        return DEFAULT_EPS
    try:
        eps = float(text)
    except ValueError:
        eps = -1.0
    if not 0 < eps < 1:
        raise UsageError(f"`norm-eps={text}` is not a small positive number", remedy="write it like norm-eps=1e-6")
    return eps
