"""Git Re-Basin's weight matching as its authors wrote it, step for step: what ours is timed against.

Every step gathers B's tensors along all other axes, moves the axis in front and flattens (copies, both), adds up a
float32 similarity, hands it to scipy, and judges progress by products with dense permuted identities
(github.com/samuela/git-re-basin, src/weight_matching.py). jax.numpy has become torch, nothing else has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rebasin_cli.spec import Layout

MAX_SWEEPS = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """Permutations by dim, wall time by phase, assignments and sweeps."""

    permutation: Mapping[str, Tensor]
    seconds: Mapping[str, float]
    solves: int
    sweeps: int


def axes_of(layout: Layout) -> dict[str, tuple[tuple[int, ...], tuple[str | None, ...]]]:
    """Key → the shape the loop sees and the dim of every axis; only for tensors that are one piece, without owners."""
    moving = set(layout.moving())
    found = {}
    for key, bound in layout.tensors.items():
        if bound.section != "tensors":
            continue
        (piece,) = bound.pieces
        sides = [side for side in piece.sides if side.size > 1 or len(piece.sides) == 1]
        found[key] = (tuple(s.size for s in sides), tuple(s.dim if s.dim in moving else None for s in sides))
    return found


def weight_matching(layout: Layout, a: Mapping[str, Tensor], b: Mapping[str, Tensor], seed: int = 0) -> Outcome:
    """The loop, from identity, in random order."""
    axes = axes_of(layout)
    params_a, params_b = ({key: t[key].reshape(shape) for key, (shape, _) in axes.items()} for t in (a, b))
    axes_to_perm = {key: dims for key, (_, dims) in axes.items()}
    perm_to_axes: dict[str, list[tuple[str, int]]] = {}
    for key, dims in axes_to_perm.items():
        for axis, dim in enumerate(dims):
            if dim is not None:
                perm_to_axes.setdefault(dim, []).append((key, axis))
    perm_sizes = {p: params_a[where[0][0]].shape[where[0][1]] for p, where in perm_to_axes.items()}
    perm = {p: torch.arange(n) for p, n in perm_sizes.items()}
    names = list(perm)
    seconds = {"similarity": 0.0, "assignment": 0.0, "progress": 0.0}
    solves = sweeps = 0
    generator = torch.Generator().manual_seed(seed)
    for _ in range(MAX_SWEEPS):
        progress = False
        sweeps += 1
        for which in torch.randperm(len(names), generator=generator).tolist():
            p = names[which]
            n = perm_sizes[p]
            start = perf_counter()
            similarity = torch.zeros(n, n)
            for key, axis in perm_to_axes[p]:
                w_a = params_a[key]
                w_b = _permuted_param(axes_to_perm[key], perm, params_b[key], axis)
                w_a = w_a.movedim(axis, 0).reshape(n, -1)
                w_b = w_b.movedim(axis, 0).reshape(n, -1)
                similarity += w_a @ w_b.T
            assign = perf_counter()
            _, columns = linear_sum_assignment(similarity.numpy(), maximize=True)
            judge = perf_counter()
            found = torch.from_numpy(columns)
            old = torch.vdot(similarity.flatten(), torch.eye(n)[perm[p]].flatten())
            new = torch.vdot(similarity.flatten(), torch.eye(n)[found].flatten())
            progress = progress or bool(new > old + 1e-12)
            perm[p] = found
            solves += 1
            for phase, took in zip(seconds, (assign - start, judge - assign, perf_counter() - judge), strict=True):
                seconds[phase] += took
        if not progress:
            break
    shapes = {dim: (*layout.owner_sizes(dim), layout.dims[dim].size) for dim in perm}
    return Outcome({dim: found.reshape(shapes[dim]) for dim, found in perm.items()}, seconds, solves, sweeps)


def _permuted_param(dims: tuple[str | None, ...], perm: Mapping[str, Tensor], w: Tensor, except_axis: int) -> Tensor:
    for axis, p in enumerate(dims):
        if axis != except_axis and p is not None:
            w = w.index_select(axis, perm[p])
    return w
