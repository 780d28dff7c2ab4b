"""Operands of a product cut into matrices that fit a cache, each gathered and converted by itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CACHED = 1 << 20
"""Elements of an operand worked on at a time, so that what was gathered is still in a cache when it is multiplied."""


def cuts(n: int, places: int, rest: int, columns: int | None = None, *, whole: bool = False) -> list[slice]:
    """Where an operand (n, places, rest) is cut: runs of places, or of the rest where it is all in one place.

    Args:
        columns: of each part; by default so many that it fits a cache, but not too few, for each product passes over
            n² sums.
        whole: whether places stay whole, because they are gathered.
    """
    columns = columns or max(CACHED // n, n // 4, 512)
    length, step = (rest, columns) if places == 1 and not whole else (places, max(1, columns // rest))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def chunk(
    x: Tensor,
    y: Tensor,
    at: Tensor | None,
    to: Tensor | None,
    dtype: torch.dtype,
    cut: slice,
    *,
    less: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One part of two operands (n, places, rest), as matrices (n, k).

    Args:
        at, to: places of x, and the places of y beside them; None for all as they are.
        less: places of y that are taken off those at `to`.
    """
    if x.shape[1] == 1 and to is None:
        return flat(x[:, :, cut], dtype), flat(y[:, :, cut], dtype)
    two = flat(_taken(y, to, cut), dtype)
    return flat(_taken(x, at, cut), dtype), two if less is None else two - flat(_taken(y, less, cut), dtype)


def chunks(
    x: Tensor, y: Tensor, at: Tensor | None, to: Tensor | None, dtype: torch.dtype, *, less: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """All parts, whose products with one another add up; otherwise as `chunk`."""
    n, places, rest = x.shape
    for cut in cuts(n, places if at is None else len(at), rest, whole=to is not None):
        yield chunk(x, y, at, to, dtype, cut, less=less)


def flat(operand: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, places, rest) as a matrix (n, places · rest)."""
    return operand.to(dtype).flatten(1)


def _taken(operand: Tensor, places: Tensor | None, cut: slice) -> Tensor:
    """Part of the operand's places, copied in the order in which they lie in memory."""
    if places is None:
        return operand[:, cut]
    if operand.stride(1) > operand.stride(0):
        return operand.transpose(0, 1).index_select(0, places[cut]).transpose(0, 1)
    return operand.index_select(1, places[cut])
