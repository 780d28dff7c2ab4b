"""The linear assignment problem: which unit of B goes to which unit of A, with all other dims held.

This is the inner problem of weight matching (Git Re-Basin, arXiv:2209.04836, Algorithm 1): maximise
Σ_i S[i, columns[i]] over permutations. The answer is exact, and says itself how well that is proved: a price p_j for
every column gives the bound Σ_i max_j (S[i, j] - p_j) + Σ_j p_j on the value of every permutation (linear programming
duality), and the gap is that bound minus the value reached.

Two solvers stand behind the one function. The lazy Jonker-Volgenant method of `lazy_jv/` is compiled at install where
a C compiler is found; without it, or if its gap is ever more than rounding, `scipy` answers. Both work on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rebasin_cli.errors import ContentError

_lazy_jv: ModuleType | None
try:
    from rebasin_cli.matching.assignment import _lazy_jv
except ImportError:  # built only where a C compiler was found
    _lazy_jv = None

Backend = Literal["auto", "lazy-jv", "scipy"]

SMALL = 80
"""Up to this size, without prices to start from, a dense Jonker-Volgenant method takes half of the lazy one's time."""

ROUNDING = 2.0**-50
"""Largest gap taken for rounding, for one row and as a share of the largest numbers added: four float64 roundings."""


class NotFiniteError(ContentError):
    """A similarity has entries that are not finite."""


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """A permutation of the columns that maximises the similarity.

    Attributes:
        columns: (n,) int64; row i is matched with column ``columns[i]``.
        value: Σ_i similarity[i, columns[i]], summed in float64.
        gap: proved upper bound on any permutation's value minus ``value``, at most rounding; None if nothing was
            proved (scipy gives no prices).
        solver: which solver gave the columns, and why if it was not the first choice.
        prices: (n,) float64, the prices behind the bound; None where ``gap`` is.
    """

    columns: NDArray[np.int64]
    value: float
    gap: float | None
    solver: str
    prices: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True, eq=False)
class Assignments:
    """Permutations of the columns of many matrices, each of which maximises its own similarity.

    Attributes:
        columns: (m, n) int64.
        gap: the largest of all; None if one was not proved.
        solver: which solver gave them, and why another had to help.
    """

    columns: NDArray[np.int64]
    gap: float | None
    solver: str


def solve_assignment(
    similarity: NDArray[Any] | torch.Tensor,
    *,
    prices: NDArray[np.float64] | None = None,
    backend: Backend = "auto",
) -> Assignment:
    """Maximises Σ_i similarity[i, columns[i]] exactly.

    The same matrix and backend give the same permutation; where several are optimal, backends may choose different
    ones. Other threads run meanwhile. Fastest for contiguous rows of float32 or float64; anything else is copied.

    Args:
        similarity: (n, n), any strides, float16, bfloat16, float32 or float64; on any device. It is not changed.
        prices: (n,) finite numbers to start from, as of an earlier ``Assignment`` of a similar matrix. They can save
            most of the time, and may change the choice among optimal permutations, never the value. scipy ignores them.
        backend: "auto" takes the compiled solver if there is one; "lazy-jv" insists on it.

    Raises:
        ContentError: the similarity is not square. NotFiniteError: an entry is not finite.
        RuntimeError: backend "lazy-jv" without the compiled solver.
    """
    if backend == "lazy-jv" and _lazy_jv is None:
        raise RuntimeError("the compiled assignment solver is not there: install again with a C compiler")
    matrix = _as_matrix(similarity)
    n = len(matrix)
    start = np.zeros(n) if prices is None else np.array(prices, dtype=np.float64)
    if start.shape != (n,) or not np.isfinite(start).all():
        raise ValueError(f"prices must be {n} finite numbers")
    if n < 2:
        return Assignment(np.zeros(n, np.int64), float(matrix.sum(dtype=np.float64)), 0.0, "trivial", start)
    if _lazy_jv is None or backend == "scipy":
        _require_finite(matrix)
        return _solve_scipy(matrix)
    return _solve_lazy_jv(_lazy_jv, matrix, start)


def solve_assignments(similarities: NDArray[Any] | torch.Tensor, *, backend: Backend = "auto") -> Assignments:
    """Maximises Σ_i similarities[k, i, columns[k, i]] exactly, for every k by itself.

    For many small matrices: none of them costs a call from Python.

    Args:
        similarities: (m, n, n); otherwise as for `solve_assignment`, as are the errors.
    """
    if backend == "lazy-jv" and _lazy_jv is None:
        raise RuntimeError("the compiled assignment solver is not there: install again with a C compiler")
    matrices = _as_matrices(similarities)
    count, n = matrices.shape[:2]
    if n < 2 or not count:
        return Assignments(np.zeros((count, n), np.int64), 0.0, "trivial")
    if _lazy_jv is None or backend == "scipy":
        _require_finite(matrices)
        return Assignments(np.stack([_solve_scipy(matrix).columns for matrix in matrices]), None, "scipy")
    columns, prices, gaps = np.empty((count, n), np.int64), np.empty((count, n)), np.empty(count)
    try:
        _lazy_jv.solve_all(matrices, prices, columns, gaps)
    except ValueError:
        _require_finite(matrices)
        raise
    except ArithmeticError:  # numbers so large that their differences overflow
        gaps[:], columns[:] = np.inf, np.arange(n)
    paired = np.take_along_axis(matrices, columns[:, :, None], 2)[:, :, 0].astype(np.float64)
    unproved = np.flatnonzero(~(gaps <= ROUNDING * n * (np.abs(paired).max(1) + np.abs(prices).max(1))))
    for which in unproved:
        columns[which] = _solve_scipy(matrices[which]).columns
    if len(unproved):
        return Assignments(columns, None, f"scipy (lazy-jv: {len(unproved)} of {count} not proved)")
    return Assignments(columns, float(gaps.max()), "lazy-jv")


def _solve_lazy_jv(solver: ModuleType, matrix: NDArray[Any], prices: NDArray[np.float64]) -> Assignment:
    columns = np.empty(len(matrix), np.int64)
    reason = "gave up"
    # Prices may end far below where they started; what they were rounded to on the way stays in the gap.
    started = float(np.abs(prices).max())
    try:
        if len(matrix) <= SMALL and not started:
            solver.solve_all(matrix[None], prices[None], columns[None], np.empty(1))
        else:
            solver.solve(matrix, prices, columns)
    except ValueError:
        _require_finite(matrix)
        raise
    except ArithmeticError:  # numbers so large that their differences overflow
        pass
    else:
        gap = solver.gap(matrix, prices, columns)
        paired = _assigned(matrix, columns)
        largest = float(np.abs(paired).max()) + max(started, float(np.abs(prices).max()))
        if gap <= ROUNDING * len(matrix) * largest:
            return Assignment(columns, float(paired.sum()), gap, "lazy-jv", prices)
        reason = f"gap {gap:.3g}"
    found = _solve_scipy(matrix)
    return Assignment(found.columns, found.value, None, f"scipy (lazy-jv: {reason})", None)


def _solve_scipy(matrix: NDArray[Any]) -> Assignment:
    from scipy.optimize import linear_sum_assignment  # half a second, and seldom needed

    columns = linear_sum_assignment(matrix, maximize=True)[1].astype(np.int64, copy=False)
    return Assignment(columns, float(_assigned(matrix, columns).sum()), None, "scipy", None)


def _assigned(matrix: NDArray[Any], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) similarity[i, columns[i]] in float64."""
    return matrix[np.arange(len(matrix)), columns].astype(np.float64)


def _as_matrix(similarity: NDArray[Any] | torch.Tensor) -> NDArray[Any]:
    """The same numbers in aligned, contiguous rows of float32 or float64 (float16 and bfloat16 fit in float32)."""
    matrix = _as_array(similarity)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ContentError(f"a similarity must be a square matrix, this one has shape {matrix.shape}")
    if len(matrix) > 1 and matrix.strides[1] != matrix.itemsize:
        return _contiguous(matrix)
    return np.require(matrix, requirements="A")


def _as_matrices(similarities: NDArray[Any] | torch.Tensor) -> NDArray[Any]:
    matrices = _as_array(similarities)
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2]:
        raise ContentError(f"similarities must be a row of square matrices, these have shape {matrices.shape}")
    return np.require(matrices, requirements=["C", "A"])


def _as_array(similarity: NDArray[Any] | torch.Tensor) -> NDArray[Any]:
    """On the host, in float32 where that holds the numbers (float16 and bfloat16), otherwise in float64."""
    if isinstance(similarity, torch.Tensor):
        similarity = similarity.detach()
        if similarity.dtype != torch.float64:
            similarity = similarity.float()
        similarity = similarity.cpu().numpy()
    wanted = np.float32 if np.result_type(similarity.dtype, np.float32) == np.float32 else np.float64
    return similarity.astype(wanted, copy=False)


def _contiguous(matrix: NDArray[Any]) -> NDArray[Any]:
    """A copy; of a transposed matrix through torch, which copies it in blocks and several times faster."""
    if matrix.flags.f_contiguous and matrix.flags.aligned:
        return torch.from_numpy(matrix.T).T.contiguous().numpy()
    return np.ascontiguousarray(matrix)


def _require_finite(matrix: NDArray[Any]) -> None:
    finite = np.isfinite(matrix)
    if finite.all():
        return
    first = tuple(np.argwhere(~finite)[0])
    raise NotFiniteError(
        f"{finite.size - np.count_nonzero(finite)} of {finite.size} entries of the similarity are not finite",
        where=f"the first is {matrix[first]} at row {first[-2]}, column {first[-1]}",
        remedy="where both checkpoints are finite, products of their weights overflow: divide the weights of both "
        "by the same number, match those, and `rebasin apply` the permutation to the originals",
    )
