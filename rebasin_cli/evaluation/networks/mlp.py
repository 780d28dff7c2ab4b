"""Multilayer perceptrons of any depth and naming."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.networks import layers
from rebasin_cli.evaluation.networks.network import Network, Params

OPTIONS = (layers.ACTIVATION_OPTION, layers.EPS_OPTION)


@dataclass(frozen=True, slots=True)
class _Layer:
    linear: str
    norm: str | None


def build_mlp(shapes: Mapping[str, tuple[int, ...]], prefix: str, options: Mapping[str, str]) -> Network:
    """A chain linear → [normalisation] → nonlinearity → … → linear, in the order of the numbers in the names.

    A matrix is a linear layer; vectors under a name of their own are the normalisation of the layer before
    them, BatchNorm where they have running statistics and LayerNorm otherwise.

    Raises:
        ContentError: the linear layers do not form a chain.
    """
    chain = _chain(shapes)
    norms = [layer.norm for layer in chain if layer.norm]
    # LayerNorm and GroupNorm(1) of a vector are the same function, so `norm` is no option here
    normalise, _ = layers.choose_normalisation(options, norms, shapes)
    activate, assumed = layers.choose_activation(options)

    def forward(params: Params, x: Tensor) -> Tensor:
        for layer in chain:
            x = layers.linear(params, layer.linear, x)  # (N, out)
            if layer.norm:
                x = normalise(params, layer.norm, x)
            if layer is not chain[-1]:
                x = activate(x)
        return x

    return Network(
        family="mlp",
        shapes=shapes,
        prefix=prefix,
        forward=forward,
        reads="vectors",
        width=shapes[f"{chain[0].linear}.weight"][1],
        classes=shapes[f"{chain[-1].linear}.weight"][0],
        assumptions=assumed if len(chain) > 1 else (),
    )


def _chain(shapes: Mapping[str, tuple[int, ...]]) -> list[_Layer]:
    modules = dict.fromkeys(key.rpartition(".")[0] for key in shapes)
    linears = [name for name in modules if len(shapes.get(f"{name}.weight", ())) == 2]
    place = {name: _numbers(name) for name in modules}
    linears.sort(key=lambda name: place[name])
    if not linears:
        raise ContentError("there is no linear layer among the tensors", remedy="see them with `rebasin inspect`")
    for one, two in pairwise(linears):
        out, into = shapes[f"{one}.weight"][0], shapes[f"{two}.weight"][1]
        if out != into:
            raise ContentError(
                f"{one}.weight has {out} outputs and the next layer, {two}.weight, has {into} inputs",
                remedy="the network is not a plain chain, so it cannot be run here; leave --data out",
            )
    found: dict[str, str] = {}
    for name in sorted(set(modules) - set(linears), key=lambda name: place[name]):
        before = [linear for linear in linears if place[linear] <= place[name]]
        if before:
            found[before[-1]] = name
    return [_Layer(name, found.get(name)) for name in linears]


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))
