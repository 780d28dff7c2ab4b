"""Operands of a product cut into matrices that fit a cache, each gathered and converted by itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rebasin_cli.permutation.signed import turned_where, units_of

CACHED = 1 << 20
"""Elements of an operand worked on at a time, so that what was gathered is still in a cache when it is multiplied."""


def chunks(
    x: Tensor, y: Tensor, at: Tensor | None, to: Tensor | None, dtype: torch.dtype, *, less: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Two operands (n, places, rest) in parts (n, k), whose products with one another add up.

    A part is a run of places, or of the rest where it is all in one place. It fits a cache, but has not too few
    columns, for each product passes over n² sums.

    Args:
        at, to: places of x, and the places of y that go with them, signed; None for all as they are.
        less: places of y that are taken off those at `to`.
    """
    n, places, rest = x.shape
    columns = max(CACHED // n, n // 4, 512)
    if places == 1 and to is None:
        for start in range(0, rest, columns):
            cut = slice(start, start + columns)
            yield flat(x[:, :, cut], dtype), flat(y[:, :, cut], dtype)
        return
    length, step = places if at is None else len(at), max(1, columns // rest)
    for cut in (slice(start, min(start + step, length)) for start in range(0, length, step)):
        two = _taken(y, to, cut, dtype)
        yield _taken(x, at, cut, dtype), two if less is None else two - _taken(y, less, cut, dtype)


def flat(operand: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, places, rest) as a matrix (n, places · rest)."""
    return operand.to(dtype).flatten(1)


def _taken(operand: Tensor, places: Tensor | None, cut: slice, dtype: torch.dtype) -> Tensor:
    """Part of the operand's places as a matrix, copied in the order in which they lie in memory."""
    if places is None:
        return flat(operand[:, cut], dtype)
    units, turned = units_of(places[cut]), (places[cut] < 0)[:, None]
    if operand.stride(1) > operand.stride(0):
        chosen = operand.transpose(0, 1).index_select(0, units).transpose(0, 1)
    else:
        chosen = operand.index_select(1, units)
    return turned_where(chosen.to(dtype), turned, torch.neg).flatten(1)
