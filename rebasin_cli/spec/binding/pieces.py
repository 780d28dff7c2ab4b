"""From axes with sizes to pieces: strided boxes whose sides are single dims."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import product

from rebasin_cli.spec.binding.layout import Piece, Side
from rebasin_cli.spec.binding.resolve import Leaf, Plus, Times

_Strip = tuple[int, tuple[Side, ...]]
_SizeOf = Callable[[Leaf], int | None]


def cut(
    axes: tuple[Plus, ...],
    shape: tuple[int, ...],
    size_of: _SizeOf,
    moves: Callable[[str], bool],
    signed: Collection[str] = (),
) -> list[Piece]:
    """Cut a tensor into pieces.

    Args:
        axes: one sum for each axis; shape: the tensor's.
        size_of: the size of a leaf, None if unknown (its whole axis is then one anonymous side).
        moves: whether a dim takes part; the others become anonymous.
        signed: dims with signs; of others nothing is said of where these act.
    """
    strips: list[list[_Strip]] = []
    stride = 1
    for axis, length in zip(reversed(axes), reversed(shape), strict=True):
        strips.append([_scaled(strip, stride) for strip in _axis_strips(axis, length, size_of, moves)])
        stride *= length
    strips.reverse()
    pieces = []
    for choice in product(*strips):
        offset = sum(start for start, _ in choice)
        sides = _merge([side for _, sides in choice for side in sides])
        sides = tuple(replace(side, still=False) if side.still and side.dim not in signed else side for side in sides)
        pieces.append(Piece(offset, sides))
    return pieces


def _axis_strips(axis: Plus, length: int, size_of: _SizeOf, moves: Callable[[str], bool]) -> list[_Strip]:
    found = _strips(axis, size_of, moves)
    if found is None:
        return [(0, (Side(None, length, 1),))]
    strips = found[0]
    if all(side.dim is None for _, sides in strips for side in sides):
        return [(0, (Side(None, length, 1),))]
    return strips


def _strips(axis: Plus, size_of: _SizeOf, moves: Callable[[str], bool]) -> tuple[list[_Strip], int] | None:
    """The strips of a sum, offsets and strides counted in its own elements, and its length."""
    strips: list[_Strip] = []
    start = 0
    for segment in axis.segments:
        if isinstance(segment, Leaf):
            size = size_of(segment)
            if size is None:
                return None
            dim = segment.dim if segment.dim is not None and moves(segment.dim) else None
            if size:
                strips.append((start, (Side(dim, size, 1, still=dim is not None and segment.still),)))
            start += size
            continue
        inner = _product(segment, size_of, moves)
        if inner is None:
            return None
        strips += [(start + offset, sides) for offset, sides in inner[0]]
        start += inner[1]
    return strips, start


def _product(times: Times, size_of: _SizeOf, moves: Callable[[str], bool]) -> tuple[list[_Strip], int] | None:
    factors: list[list[_Strip]] = []
    stride = 1
    for factor in reversed(times.factors):
        found = _strips(factor, size_of, moves)
        if found is None:
            return None
        factors.append([_scaled(strip, stride) for strip in found[0]])
        stride *= found[1]
    factors.reverse()
    combined = [
        (sum(offset for offset, _ in choice), tuple(side for _, sides in choice for side in sides))
        for choice in product(*factors)
    ]
    return combined, stride


def _scaled(strip: _Strip, stride: int) -> _Strip:
    offset, sides = strip
    return offset * stride, tuple(replace(side, stride=side.stride * stride) for side in sides)


def _merge(sides: list[Side]) -> tuple[Side, ...]:
    """Drop anonymous sides of one step, and join anonymous neighbours that are contiguous."""
    merged: list[Side] = []
    for side in sides:
        if side.dim is None and side.size == 1:
            continue
        before = merged[-1] if merged else None
        if before and side.dim is None and before.dim is None and before.stride == side.stride * side.size:
            merged[-1] = Side(None, before.size * side.size, side.stride)
        else:
            merged.append(side)
    return tuple(merged)
