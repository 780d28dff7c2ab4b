"""Which channels of an activation are units of which dims: as a spec says of weights, or as a user says of a module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class Segment:
    """Some channels of a layer's input that belong to dims of one block.

    Attributes:
        dims: the dims, owners before what is within them.
        channels: number of each channel; shape (*sizes of the dims, places without a dim that moves).
    """

    dims: tuple[str, ...]
    channels: Tensor


def segments_of(layout: Layout, key: str, shape: tuple[int, ...], axis: int) -> tuple[Segment, ...]:
    """What the spec says of one axis of a tensor, for the dims that move; each once, however often it is repeated."""
    low = prod(shape[axis + 1 :])
    high = low * shape[axis]
    moving = set(layout.moving())
    found: dict[tuple[object, ...], Segment] = {}
    for piece in layout.tensors[key].pieces:
        here = [at for at, side in enumerate(piece.sides) if low <= side.stride < high and side.size > 1]
        dims = [at for at in here if piece.sides[at].dim in moving]
        names = [str(piece.sides[at].dim) for at in dims]
        owners = {piece.sides[at].owner for at in dims} - {None}
        roots = {layout.root(name) for name in names}
        if not dims or len(set(names)) < len(names) or len(roots) > 1 or not owners <= set(here):
            continue
        dims.sort(key=lambda at: _depth(layout, str(piece.sides[at].dim)))
        channels = torch.tensor(piece.offset % high // low)
        rest = [at for at in here if at not in dims]
        for at in (*dims, *rest):
            side = piece.sides[at]
            channels = channels.unsqueeze(-1) + torch.arange(side.size) * (side.stride // low)
        channels = channels.reshape(*(piece.sides[at].size for at in dims), -1)
        segment = Segment(tuple(str(piece.sides[at].dim) for at in dims), channels)
        found[segment.dims, tuple(channels.flatten().tolist())] = segment
    return tuple(found.values())


def segment_of(layout: Layout, dim: str) -> Segment:
    """All channels of a module that has one for every unit of `dim`; where that has owners, they count outermost."""
    dims = [dim]
    while (owner := layout.dims[dims[0]].owner) is not None:
        dims.insert(0, owner)
    sizes = [layout.dims[name].size for name in dims]
    return Segment(tuple(dims), torch.arange(prod(sizes)).reshape(*sizes, 1))


def channel_axis(shape: Sequence[int], channels: int) -> int | None:
    """The axis with this number of channels: the last, or the one behind the examples; None if neither.

    Of images, where both have it, the one behind the examples.
    """
    first, last = len(shape) > 2 and shape[1] == channels, len(shape) > 1 and shape[-1] == channels
    if first and (len(shape) > 3 or not last):
        return 1
    return -1 if last else None


def _depth(layout: Layout, dim: str) -> int:
    return len(layout.owner_sizes(dim))
