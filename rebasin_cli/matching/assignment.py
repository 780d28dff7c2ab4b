"""The linear assignment problem: which unit of B goes to which unit of A, with all other dims held.

This is the inner problem of weight matching (Git Re-Basin, arXiv:2209.04836, Algorithm 1): maximise
Σ_i S[i, columns[i]] over permutations. The answer is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from rebasin_cli.errors import ContentError


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """A permutation of the columns that maximises the similarity.

    Attributes:
        columns: (n,) int64; row i is matched with column ``columns[i]``.
        value: Σ_i similarity[i, columns[i]], summed in float64.
        gap: proved upper bound of any permutation's value minus ``value``; None if nothing was proved.
        solver: which solver gave the columns.
    """

    columns: NDArray[np.int64]
    value: float
    gap: float | None
    solver: str


def solve_assignment(similarity: NDArray[Any] | torch.Tensor) -> Assignment:
    """Maximises Σ_i similarity[i, columns[i]] exactly.

    Args:
        similarity: (n, n), any strides, float16, bfloat16, float32 or float64; on any device.

    Raises:
        ContentError: it is not square, or an entry is not finite.
    """
    matrix = _as_matrix(similarity)
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    value = float(matrix[rows, columns].sum(dtype=np.float64))
    return Assignment(columns.astype(np.int64, copy=False), value, None, "scipy")


def _as_matrix(similarity: NDArray[Any] | torch.Tensor) -> NDArray[Any]:
    """The same numbers as a float32 or float64 array (exact: float16 and bfloat16 fit in float32)."""
    if isinstance(similarity, torch.Tensor):
        tensor = similarity.detach()
        similarity = (tensor if tensor.dtype == torch.float64 else tensor.float()).cpu().numpy()
    if similarity.dtype not in (np.float32, np.float64):
        similarity = similarity.astype(np.float32)
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ContentError(f"a similarity must be a square matrix, this one has shape {similarity.shape}")
    if not np.isfinite(similarity).all():
        raise ContentError(
            f"{np.count_nonzero(~np.isfinite(similarity))} entries of the similarity are not finite",
            remedy="look for NaN and infinities in both checkpoints, and for values whose products overflow",
        )
    return similarity
