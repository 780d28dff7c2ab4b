"""A plain transcription of Git Re-Basin's Algorithm 1 (arXiv:2209.04836), kept as an oracle.

Dense, slow and obvious: one similarity matrix a step, built axis by axis from permuted copies of the tensors, scipy's
assignment, random order, until a sweep changes nothing. It knows dims without owners that stand on whole axes, which
is what the paper has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Axes = Mapping[str, Sequence[str | None]]
Array = NDArray[np.float64]


def permute_axes(tensor: Array, axes: Sequence[str | None], perm: Mapping[str, NDArray[np.int64]], skip: int) -> Array:
    """The tensor with every axis but `skip` gathered by its dim's permutation."""
    for axis, dim in enumerate(axes):
        if dim is not None and axis != skip:
            tensor = np.take(tensor, perm[dim], axis=axis)
    return tensor


def algorithm1(
    axes: Axes, a: Mapping[str, Array], b: Mapping[str, Array], order: Sequence[str], seed: int
) -> tuple[dict[str, NDArray[np.int64]], float]:
    """Permutations and the final ⟨A, π(B)⟩; `order` names the dims that the random order of a sweep permutes."""
    sizes = {dim: a[k].shape[axis] for k in a for axis, dim in enumerate(axes[k]) if dim is not None}
    perm = {dim: np.arange(n) for dim, n in sizes.items()}
    generator = torch.Generator().manual_seed(seed)
    progress = True
    while progress:
        progress = False
        for which in torch.randperm(len(order), generator=generator).tolist():
            dim = order[which]
            n = sizes[dim]
            similarity = np.zeros((n, n))
            for key, dims in axes.items():
                for axis, name in enumerate(dims):
                    if name == dim:
                        one = np.moveaxis(a[key], axis, 0).reshape(n, -1)
                        two = np.moveaxis(permute_axes(b[key], dims, perm, axis), axis, 0).reshape(n, -1)
                        similarity += one @ two.T
            _, found = linear_sum_assignment(similarity, maximize=True)
            old = similarity[np.arange(n), perm[dim]].sum()
            new = similarity[np.arange(n), found].sum()
            if new > old + 1e-7 * abs(old):
                perm[dim] = found
                progress = True
    total = sum(float((a[k] * permute_axes(b[k], axes[k], perm, -1)).sum()) for k in a)
    return perm, total
