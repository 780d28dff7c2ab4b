"""Weight matching as the paper has it: read this first.

Git Re-Basin (arXiv:2209.04836), Algorithm 1, raises ⟨A, π(B)⟩ (equation 1) one permutation at a time. With all
others held, what dim p adds is linear in its permutation (equation 2):

    Σ_i S[i, π_p(i)],   S[i, j] = Σ over tensors and their axes of p ⟨A's slice i, B's slice j with the others permuted⟩

and a linear assignment finds the best one exactly. The fast methods give the same result in less time, for every
kind of network; the tests hold them to this loop. It reads all tensors in every step and knows dims without owners
that stand on a tensor once, which is what the paper has.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rebasin_cli.permutation.gather import piece_view
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout, Piece

PROGRESS = 1e-7
"""The least gain that counts, as a share of what the dim is worth; less may be rounding, and could go on for ever."""


def weight_matching(layout: Layout, a: Mapping[str, Tensor], b: Mapping[str, Tensor], seed: int = 0) -> Permutation:
    """Match B's units to A's by Algorithm 1: from the identity, in random order, until a sweep changes nothing.

    Args:
        layout: the spec bound to the shapes. Each piece of a tensor has an axis for every dim that stands on it.
        a, b: tensors by key; sums are in float64.
    """
    bound = [tensor for tensor in layout.tensors.values() if tensor.section == "tensors"]
    pieces = [(tensor.key, piece) for tensor in bound for piece in tensor.pieces]
    dims = [dim for dim in layout.moving() if any(side.dim == dim for _, piece in pieces for side in piece.sides)]
    perm = {dim: torch.arange(layout.dims[dim].size) for dim in layout.moving()}
    generator = torch.Generator().manual_seed(seed)
    progress = True
    while progress:
        progress = False
        for which in torch.randperm(len(dims), generator=generator).tolist():
            p = dims[which]
            n = layout.dims[p].size
            similarity = torch.zeros(n, n, dtype=torch.float64)
            for key, piece in pieces:
                for axis in (axis for axis, side in enumerate(piece.sides) if side.dim == p):
                    w_a = piece_view(a[key].double().contiguous(), piece).movedim(axis, 0).reshape(n, -1)  # (n, rest)
                    w_b = permuted(b[key], piece, perm, skip=axis).movedim(axis, 0).reshape(n, -1)  # (n, rest)
                    similarity += w_a @ w_b.T  # (n, n): places of A, units of B
            rows, columns = torch.arange(n), torch.from_numpy(linear_sum_assignment(similarity, maximize=True)[1])
            before, after = similarity[rows, perm[p]].sum(), similarity[rows, columns].sum()
            if after > before + PROGRESS * abs(before):
                perm[p], progress = columns, True
    return Permutation(perm)


def permuted(tensor: Tensor, piece: Piece, perm: Mapping[str, Tensor], skip: int) -> Tensor:
    """A piece of B with every axis but `skip` in the order of its dim's permutation; an axis for each of its dims."""
    view = piece_view(tensor.double().contiguous(), piece)
    for axis, side in enumerate(piece.sides):
        if side.dim is not None and side.dim in perm and axis != skip:
            view = view.index_select(axis, perm[side.dim])
    return view
