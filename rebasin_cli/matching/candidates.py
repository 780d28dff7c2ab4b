"""What an exact assignment reads of every row, made where the matrix is: on a GPU, two passes that the host is spared.

The compiled solver (`lazy_jv/`) begins with a list of every row's best columns and a bound on all the others, and ends
with a certificate. Both read the whole matrix once. What lies between them looks at single entries and at few rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AT_ONCE = 1 << 24
"""Entries that are looked at at a time, in float64 with a few copies: about 0.5 GB."""

BLOCK, LANES = 512, 64
"""As in lazy_jv.h: the least of a row is judged by the largest of groups of eight entries, as the solver does."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The best columns of every row at some prices.

    Attributes:
        columns: (n, room) int64, best first.
        values: (n, room) float64, similarity[i, columns[i]] − prices[columns[i]]; −∞ for constant columns, which are
            none: the solver keeps them apart.
        bounds: (n,) float64, on the values of all other columns of each row.
        spread: mean over the rows of the largest value minus (nearly) the least, constant rows and columns aside.
    """

    columns: NDArray[np.int64]
    values: NDArray[np.float64]
    bounds: NDArray[np.float64]
    spread: float


def candidates(similarity: Tensor, prices: NDArray[np.float64], room: int) -> Candidates:
    """Look for the `room` best columns of every row of a similarity (n, n), float32 or float64, on its device.

    Raises:
        ValueError: an entry is not finite.
    """
    n = len(similarity)
    p = torch.from_numpy(prices).to(similarity.device)
    p = p.masked_fill((similarity == similarity[0]).all(0), torch.inf)  # constant columns
    best, where, below, varies = [], [], [], []
    finite = torch.ones((), dtype=torch.bool, device=similarity.device)
    for rows in _parts(similarity):
        finite &= rows.isfinite().all()
        values = rows.double() - p
        found = values.topk(min(room + 1, n), dim=1)
        best.append(found.values)
        where.append(found.indices)
        below.append(_nearly_least(values))
        varies.append((rows != rows[:, :1]).any(1))
    if not finite:
        raise ValueError("an entry is not finite")
    values, columns = torch.cat(best), torch.cat(where)
    largest, least = values[:, 0], torch.cat(below)
    counted = torch.cat(varies) & largest.isfinite()
    spread = float((largest - least)[counted].mean()) if counted.any() else 0.0
    if n <= room:
        more = room + 1 - n
        values = torch.nn.functional.pad(values, (0, more), value=-torch.inf)
        columns = torch.nn.functional.pad(columns, (0, more))
    return Candidates(
        columns=columns[:, :room].contiguous().cpu().numpy(),
        values=values[:, :room].contiguous().cpu().numpy(),
        bounds=values[:, room].contiguous().cpu().numpy(),
        spread=spread,
    )


def duality_gap(similarity: Tensor, prices: NDArray[np.float64], columns: NDArray[np.int64]) -> float:
    """Σ_i max_j (S[i, j] − p_j) − Σ_i (S[i, columns[i]] − p at columns[i]), each term in float64, on S's device."""
    p = torch.from_numpy(prices).to(similarity.device)
    chosen = torch.from_numpy(columns).to(similarity.device)
    gap, at = 0.0, 0
    for rows in _parts(similarity):
        here = chosen[at : at + len(rows), None]
        values = rows.double() - p
        gap += float((values.amax(1) - values.gather(1, here)[:, 0]).sum())
        at += len(rows)
    return gap


def _parts(similarity: Tensor) -> Iterator[Tensor]:
    """Some rows at a time."""
    step = max(1, AT_ONCE // len(similarity))
    for at in range(0, len(similarity), step):
        yield similarity[at : at + step]


def _nearly_least(values: Tensor) -> Tensor:
    """(rows,) the least of the largest of each group of entries; constant columns aside."""
    rows, n = values.shape
    blocks = -(-n // BLOCK)
    padded = torch.nn.functional.pad(values, (0, blocks * BLOCK - n), value=-torch.inf)
    groups = padded.reshape(rows, blocks, BLOCK // LANES, LANES).amax(2).reshape(rows, -1)
    return groups.masked_fill(groups == -torch.inf, torch.inf).amin(1)
