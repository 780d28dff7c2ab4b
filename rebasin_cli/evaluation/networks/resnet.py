"""Residual networks of basic and bottleneck blocks (He et al. 2016, arXiv:1512.03385).

One builder for both: a block is as many convolutions as it has tensors for, and shapes tell widths, groups,
kernels and shortcuts. The stride of a stage is in its first block's first 3×3 convolution, which is conv2
in a bottleneck (torchvision's "v1.5"), and in its shortcut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.networks import layers
from rebasin_cli.evaluation.networks.network import Network, Params
from rebasin_cli.evaluation.networks.options import Option

OPTIONS = (
    layers.ACTIVATION_OPTION,
    layers.NORM_OPTION,
    layers.EPS_OPTION,
    Option("stem-stride", ("1", "2"), "stride of the first convolution; if not given 2 for a 7×7 kernel, else 1"),
    Option("stem-pool", ("max", "none"), "max pooling after it; if not given max for a 7×7 kernel, else none"),
)
_STEM_KERNEL_OF_LARGE_IMAGES = 7
_CLASSIFIERS = ("fc", "linear")
_NORMS = ("bn", "norm")
_SHORTCUTS = ("downsample", "shortcut")


@dataclass(frozen=True, slots=True)
class _Block:
    convs: tuple[str, ...]
    norms: tuple[str, ...]
    strides: tuple[int, ...]
    shortcut: str | None

    def every_norm(self) -> tuple[str, ...]:
        return (*self.norms, f"{self.shortcut}.1") if self.shortcut else self.norms


def build_basic(shapes: Mapping[str, tuple[int, ...]], prefix: str, options: Mapping[str, str]) -> Network:
    """ResNet-18/34 and the CIFAR networks, with BatchNorm, LayerNorm or GroupNorm(1); any width and depth."""
    return _build("resnet-basic", 2, shapes, prefix, options)


def build_bottleneck(shapes: Mapping[str, tuple[int, ...]], prefix: str, options: Mapping[str, str]) -> Network:
    """ResNet-50/101/152, ResNeXt and wide ones."""
    return _build("resnet-bottleneck", 3, shapes, prefix, options)


def _build(
    family: str, convs: int, shapes: Mapping[str, tuple[int, ...]], prefix: str, options: Mapping[str, str]
) -> Network:
    stem_norm = _first(shapes, [f"{norm}1" for norm in _NORMS])
    head = _first(shapes, _CLASSIFIERS)
    blocks = _blocks(shapes, convs)
    norms = [stem_norm, *(norm for block in blocks for norm in block.every_norm())]
    normalise, assumed_norm = layers.choose_normalisation(options, norms, shapes)
    activate, assumed_activation = layers.choose_activation(options)
    stride, pool, assumed_stem = _stem(shapes, options)

    def forward(params: Params, x: Tensor) -> Tensor:
        x = activate(normalise(params, stem_norm, layers.convolve(params, "conv1", x, stride)))  # (N, stem, H, W)
        if pool:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        for block in blocks:
            x = _run_block(block, params, x, normalise, activate)
        return layers.linear(params, head, x.mean((2, 3)))  # (N, classes)

    return Network(
        family=family,
        shapes=shapes,
        prefix=prefix,
        forward=forward,
        reads="images",
        width=shapes["conv1.weight"][1],
        classes=shapes[f"{head}.weight"][0],
        assumptions=(*assumed_activation, *assumed_norm, *assumed_stem),
    )


def _run_block(
    block: _Block,
    params: Params,
    x: Tensor,
    normalise: layers.Normalisation,
    activate: Callable[[Tensor], Tensor],
) -> Tensor:
    skip = x
    if block.shortcut:
        stride = max(block.strides)
        skip = layers.convolve(params, f"{block.shortcut}.0", x, stride)
        skip = normalise(params, f"{block.shortcut}.1", skip)
    for conv, norm, stride in zip(block.convs, block.norms, block.strides, strict=True):
        x = normalise(params, norm, layers.convolve(params, conv, x, stride))
        if conv != block.convs[-1]:
            x = activate(x)
    return activate(x + skip)


def _stem(shapes: Mapping[str, tuple[int, ...]], options: Mapping[str, str]) -> tuple[int, bool, tuple[str, ...]]:
    """Stride of the stem, whether max pooling follows it, and what was assumed."""
    kernel = shapes["conv1.weight"][2]
    large = kernel >= _STEM_KERNEL_OF_LARGE_IMAGES
    stride = int(options.get("stem-stride", "2" if large else "1"))
    pool = options.get("stem-pool", "max" if large else "none") == "max"
    if "stem-stride" in options and "stem-pool" in options:
        return stride, pool, ()
    after = "max pooling" if pool else "no pooling"
    note = f"a {kernel}×{kernel} stem has stride {stride} and {after} (options stem-stride, stem-pool)"
    return stride, pool, (note,)


def _blocks(shapes: Mapping[str, tuple[int, ...]], convs: int) -> tuple[_Block, ...]:
    places = sorted({(int(m[1]), int(m[2])) for key in shapes if (m := re.match(r"layer(\d+)\.(\d+)\.", key))})
    if not places:
        raise ContentError(
            "there are no blocks `layer1.0.…` among the tensors", remedy="see them with `rebasin inspect`"
        )
    first_stage = places[0][0]
    first_block = dict(reversed(places))
    blocks = []
    for stage, block in places:
        name = f"layer{stage}.{block}"
        halves = stage != first_stage and block == first_block[stage]
        strided = 0 if convs == 2 else 1  # position of the convolution with the stride
        shortcut = next((f"{name}.{s}" for s in _SHORTCUTS if f"{name}.{s}.0.weight" in shapes), None)
        if halves and shortcut is None:
            raise ContentError(
                f"{name} starts a stage and has no shortcut convolution",
                remedy="shortcuts that pad with zeros cannot be run here; leave --data out",
            )
        blocks.append(
            _Block(
                convs=tuple(f"{name}.conv{i + 1}" for i in range(convs)),
                norms=tuple(_first(shapes, [f"{name}.{norm}{i + 1}" for norm in _NORMS]) for i in range(convs)),
                strides=tuple(2 if halves and i == strided else 1 for i in range(convs)),
                shortcut=shortcut,
            )
        )
    return tuple(blocks)


def _first(shapes: Mapping[str, tuple[int, ...]], names: list[str] | tuple[str, ...]) -> str:
    for name in names:
        if f"{name}.weight" in shapes:
            return name
    wanted = " nor ".join(f"{name}.weight" for name in names)
    raise ContentError(f"there is neither {wanted}", remedy="see the tensors with `rebasin inspect`")
