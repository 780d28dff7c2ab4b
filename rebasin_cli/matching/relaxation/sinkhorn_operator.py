"""The Sinkhorn operator: from any matrix to a doubly stochastic one, differentiable.

Rows and columns of exp(X) are scaled in turn until all sums are one, in logarithms, so that large entries do not
overflow. The gradient goes through the implicit function (Eisenberger et al. 2022, arXiv:2205.06688; used for re-basin
by Peña et al., arXiv:2212.12042): what is differentiated is the equation that the result solves, not the iterations
that led there. No iteration has to be remembered, a warm start is free, and one linear system of n unknowns takes the
place of going back through all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-3
"""How far from one a sum may stay: the gradient is that of the sums there are."""

RIDGE = 1e-6
"""Added to the diagonal of the system, whose other entries are of order one: near a permutation every cycle of units is
almost a direction in which nothing is determined."""


def doubly_stochastic(
    scores: Tensor, columns: Tensor | None = None, *, max_iterations: int = 100
) -> tuple[Tensor, Tensor]:
    """exp(scores) with its rows and columns scaled to sums of one (the sums of columns to within `TOLERANCE`).

    Args:
        scores: (n, n), finite; gradients flow through it.
        columns: (n,) logarithms of the columns' scales to start from, as of an earlier call with similar scores.

    Returns:
        The matrix, and the logarithms of the columns' scales.
    """
    start = scores.new_zeros(len(scores)) if columns is None else columns
    found: tuple[Tensor, Tensor] = _Sinkhorn.apply(scores, start, max_iterations)  # type: ignore[no-untyped-call]
    return found


class _Sinkhorn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, columns: Tensor, max_iterations: int) -> tuple[Tensor, Tensor]:
        for _ in range(max_iterations):
            scaled = scores + columns
            scaled = scaled - scaled.logsumexp(1, keepdim=True)  # rows sum to one from here on
            sums = scaled.logsumexp(0)
            if float(sums.exp().sub_(1).abs().max()) <= TOLERANCE:
                break
            columns = columns - sums
        matrix = scaled.exp()
        ctx.save_for_backward(matrix)
        columns = columns.clone()  # an output of its own, even where it is the input
        ctx.mark_non_differentiable(columns)
        return matrix, columns

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """P ∘ (G − α1ᵀ − 1βᵀ), with α and β such that rows and columns of it sum to zero."""
        (matrix,) = ctx.saved_tensors
        p = matrix.double()
        weighted = p * gradients[0].double()
        rows, columns = weighted.sum(1), weighted.sum(0)
        n = len(p)
        # Rows of P sum to one: α = rows − Pβ, and (diag(Pᵀ1) − PᵀP) β = columns − Pᵀ rows. The constant β is free.
        system = torch.diag(p.sum(0) + RIDGE) - p.T @ p + 1 / n
        beta = torch.linalg.solve(system, columns - p.T @ rows)
        alpha = rows - p @ beta
        return (weighted - p * (alpha[:, None] + beta)).to(matrix.dtype), None, None
