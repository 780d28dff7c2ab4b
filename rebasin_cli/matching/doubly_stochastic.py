"""Doubly stochastic matrices in the place of permutations: the Sinkhorn operator, and models with their units mixed.

The operator makes a doubly stochastic matrix of any matrix: rows and columns of exp(X) are scaled in turn until all
sums are one, in logarithms, so that large entries do not overflow. The gradient goes through the implicit function
(Eisenberger et al. 2022, arXiv:2205.06688; used for re-basin by Peña et al., arXiv:2212.12042): what is differentiated
is the equation that the result solves, not the iterations that led there. No iteration has to be remembered, a warm
start is free, and one linear system of n unknowns takes the place of going back through all of them.

A `Mixer` gives a model's tensors with their units mixed by such matrices, differentiable too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.permutation.gather import gather_piece, permute_tensor, piece_view, source_key
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import BoundTensor, Layout, Piece

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


@dataclass(frozen=True, slots=True)
class Soft:
    """One piece whose units are mixed.

    Attributes:
        view: one axis a side, the sides that are held gathered already.
        sides: axis → dim, of those that are mixed.
    """

    piece: Piece
    view: Tensor
    sides: Mapping[int, str]

    def mixed(self, matrices: Mapping[str, Tensor]) -> Tensor:
        """Σ_j X[i, j] b[.., j, ..] along every side that is mixed; gradients flow into the matrices."""
        view = self.view
        for axis, dim in self.sides.items():
            view = torch.tensordot(matrices[dim], view, dims=([1], [axis])).movedim(0, axis)
        return view


class Mixer:
    """A model prepared for mixing along some dims, all other dims held at a permutation.

    Args:
        free: the dims to be mixed; of those within others none.
        buffers: whether tensors that are moved but not matched (running statistics) are mixed, too.

    Attributes:
        soft: key → its pieces, for every tensor in which something is mixed.
    """

    def __init__(
        self, layout: Layout, state: Mapping[str, Tensor], free: Collection[str], held: Permutation,
        device: torch.device, dtype: torch.dtype = torch.float32, *, buffers: bool = False,
    ) -> None:  # fmt: skip
        self.layout, self.state, self.held, self.device, self.dtype = layout, state, held, device, dtype
        wanted = ("tensors", "buffers") if buffers else ("tensors",)
        self.soft: dict[str, tuple[Soft, ...]] = {}
        for key, bound in layout.tensors.items():
            if bound.section in wanted and any(side.dim in free for piece in bound.pieces for side in piece.sides):
                self.soft[key] = tuple(self._prepared(bound, free))

    def _prepared(self, bound: BoundTensor, free: Collection[str]) -> Iterator[Soft]:
        tensor = self._wide(self.state[source_key(self.held, bound)])
        for piece in bound.pieces:
            sides = {at: str(side.dim) for at, side in enumerate(piece.sides) if side.dim in free}
            yield Soft(piece, gather_piece(piece_view(tensor, piece), piece, self.held, bound.place, skip=sides), sides)

    def _wide(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(device=self.device, dtype=self.dtype).contiguous()

    def pieces(self) -> Iterator[Soft]:
        """All that is mixed, in the same order for every model of a layout."""
        for found in self.soft.values():
            yield from found

    def moved(self, key: str, matrices: Mapping[str, Tensor]) -> Tensor:
        """The tensor that comes to stand under `key`."""
        found = self.soft.get(key)
        if found is None:
            return self._wide(permute_tensor(self.held, self.layout, key, self.state.__getitem__))
        shape = self.state[key].shape
        if len(found) == 1:
            return found[0].mixed(matrices).reshape(shape)
        whole = torch.empty(shape, dtype=self.dtype, device=self.device)
        for soft in found:
            piece_view(whole, soft.piece).copy_(soft.mixed(matrices))
        return whole


def between(a: Mapping[str, Tensor], b: Mixer, matrices: Mapping[str, Tensor], lam: float) -> dict[str, Tensor]:
    """(1 − λ) A + λ X(B); what has no mean is A's."""
    state = {}
    for key, tensor in a.items():
        if b.layout.tensors[key].section == "ignored" or not tensor.is_floating_point():
            state[key] = tensor
        else:
            state[key] = torch.lerp(tensor.to(device=b.device, dtype=b.dtype), b.moved(key, matrices), lam)
    return state
