"""VGG: `features.{n}` convolutions with max pooling between them, then a classifier on the flattened features.

The pooling layers have no tensors, but they count in the numbering of `features`: two convolutions are
2 apart (convolution, ReLU), 3 with a normalisation, and one more where a pooling layer stands between them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.networks import layers
from rebasin_cli.evaluation.networks.network import Network, Params
from rebasin_cli.evaluation.networks.options import Option

OPTIONS = (
    layers.ACTIVATION_OPTION,
    layers.NORM_OPTION,
    layers.EPS_OPTION,
    Option(
        "pools", (), "numbers of the convolutions that max pooling follows (2,7,14); if not given, from the numbering"
    ),
)
_HEADS = ("classifier", "fc", "linear")
_ALEXNET_KERNEL = 11


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Strides and pooling: VGG's, and AlexNet's (A. Krizhevsky, arXiv:1404.5997, as torchvision has it)."""

    first_stride: int = 1
    first_padding: int | None = None  # None: keep the size
    pool: int = 2


def build_vgg(shapes: Mapping[str, tuple[int, ...]], prefix: str, options: Mapping[str, str]) -> Network:
    """VGG-11/13/16/19 with BatchNorm, LayerNorm or none, AlexNet; a classifier of any number of linear layers.

    The features are averaged down or repeated up to the size that the first linear layer expects, as
    torchvision does; it is 1 × 1 for networks made for 32 × 32 images.

    Raises:
        ContentError: the classifier's input is not (channels × a square), or pooling cannot be told.
        UsageError: `pools` is not a list of convolutions.
    """
    convs = sorted(int(key.split(".")[1]) for key, shape in shapes.items() if len(shape) == 4)
    # a normalisation stands right after its convolution, under a number of its own
    normed = [c for c in convs if f"features.{c + 1}.weight" in shapes and c + 1 not in convs]
    heads = _classifier(shapes)
    normalise, assumed_norm = layers.choose_normalisation(options, [f"features.{c + 1}" for c in normed], shapes)
    activate, assumed_activation = layers.choose_activation(options)
    pools, assumed_pools = _pools(convs, normed, options.get("pools"))
    side = _side(shapes, heads[0], convs[-1])
    kernel = shapes[f"features.{convs[0]}.weight"][2]
    geometry = _Geometry(4, 2, 3) if kernel == _ALEXNET_KERNEL else _Geometry()

    def forward(params: Params, x: Tensor) -> Tensor:
        for c in convs:
            first = c == convs[0]
            stride, padding = (geometry.first_stride, geometry.first_padding) if first else (1, None)
            x = layers.convolve(params, f"features.{c}", x, stride, padding)  # (N, conv.c, H, W)
            if c in normed:
                x = normalise(params, f"features.{c + 1}", x)
            x = activate(x)
            if c in pools:
                x = F.max_pool2d(x, geometry.pool, stride=2)
        x = F.adaptive_avg_pool2d(x, side).flatten(1)  # (N, channels · side²)
        for head in heads:
            x = layers.linear(params, head, x)
            if head != heads[-1]:
                x = activate(x)
        return x

    return Network(
        family="vgg",
        shapes=shapes,
        prefix=prefix,
        forward=forward,
        reads="images",
        width=shapes[f"features.{convs[0]}.weight"][1],
        classes=shapes[f"{heads[-1]}.weight"][0],
        assumptions=(*assumed_activation, *assumed_norm, *assumed_pools),
    )


def _classifier(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    names = [key.removesuffix(".weight") for key, shape in shapes.items() if len(shape) == 2]
    numbered = sorted((n for n in names if n.startswith("classifier.")), key=lambda n: int(n.split(".")[1]))
    heads = numbered or [name for name in names if name in _HEADS]
    if not heads:
        raise ContentError(
            "there is no classifier after the convolutions, so the network has no logits",
            remedy="the network cannot be run here; leave --data out",
        )
    return heads


def _side(shapes: Mapping[str, tuple[int, ...]], head: str, last_conv: int) -> int:
    """Height and width of the features that the classifier flattens."""
    inputs = shapes[f"{head}.weight"][1]
    channels = shapes[f"features.{last_conv}.weight"][0]
    side = math.isqrt(inputs // channels)
    if side * side * channels != inputs:
        raise ContentError(
            f"{head}.weight has {inputs} inputs, which are not {channels} channels times a square",
            remedy="the network cannot be run here; leave --data out",
        )
    return side


def _pools(convs: list[int], normed: Collection[int], given: str | None) -> tuple[frozenset[int], tuple[str, ...]]:
    """The convolutions that a pooling layer follows, and what was assumed about them."""
    if given is not None:
        return _parse_pools(given, convs), ()
    pools = {convs[-1]}
    for c, following in pairwise(convs):
        extra = following - c - (3 if c in normed else 2)
        if extra not in (0, 1):
            raise ContentError(
                f"features.{c} and features.{following} are numbered {following - c} apart: "
                "whether a pooling layer stands between them cannot be told",
                remedy="name the convolutions that max pooling follows: --network-option pools=2,7,14",
            )
        if extra:
            pools.add(c)
    numbers = ",".join(str(c) for c in sorted(pools))
    return frozenset(pools), (f"max pooling follows features {numbers} (option pools=…)",)


def _parse_pools(text: str, convs: list[int]) -> frozenset[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in parts if not part.isdecimal() or int(part) not in convs]
    if wrong:
        raise UsageError(
            f"`pools={text}`: there is no convolution features.{wrong[0]}",
            remedy=f"the convolutions are {', '.join(str(c) for c in convs)}",
        )
    return frozenset(int(part) for part in parts)
