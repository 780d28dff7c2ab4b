"""Frank-Wolfe on N models at once: a permutation for each into a universe that they share (C2M3, arXiv:2405.17897).

What is raised is Σ_{i<j} w_i w_j ⟨X_i(M_i), X_j(M_j)⟩ over doubly stochastic matrices, one a plain dim and model. A
piece with two such dims is quadratic in the matrices of a model, so that along a segment the objective is a polynomial
of degree four: its value and slope at the start and three more values give it exactly, and with it the best step. All
models move in one step, and what is permuted into a universe is cycle-consistent whatever the steps were.

The first model stays as it is: its order is the universe, which otherwise nothing would tell from its permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.matching.assignment.solve import solve_assignment
from rebasin_cli.matching.descent.weights import joint_dims, similarity_dtype
from rebasin_cli.matching.doubly_stochastic import Mixer
from rebasin_cli.matching.options import RelaxedStart
from rebasin_cli.matching.resources import free_memory
from rebasin_cli.merging.models import Models
from rebasin_cli.permutation.values import Permutation

Matrices = Mapping[str, Tensor]
MAX_ITERATIONS = 60
TOLERANCE = 1e-4
"""The iterations end when the best vertices promise less than this share of the objective."""

COPIES = 4
"""Of every model and matrix, that are alive at once: itself, mixed, and what the gradient needs."""


def frank_wolfe_many(
    models: Models,
    held: Sequence[Permutation],
    *,
    start: RelaxedStart,
    device: str,
    tell: Callable[[int, int], bool],
) -> tuple[Permutation, ...]:
    """Permutations of all models into one order, rounded from where Frank-Wolfe comes to rest.

    Args:
        held: a permutation of each model, at which dims with insides stay; the first one's is the identity.
        start: where the other dims begin, of all models but the first.
        tell: called after each iteration with its number and their most; False ends them.

    """
    joint = _Joint(models, held, torch.device(device))
    present = joint.start(start)
    for iteration in range(MAX_ITERATIONS):
        found = joint.step(present)
        if found is None:
            break
        present = found
        if not tell(iteration + 1, MAX_ITERATIONS):
            break
    rounded = joint.vertices([{dim: x.detach() for dim, x in matrices.items()} for matrices in present])
    return (held[0], *(one.replace(found) for one, found in zip(held[1:], rounded, strict=True)))


def check_joint(models: Models) -> None:
    """Refuse what cannot be done, before anything is.

    Raises:
        ContentError: no dims can move together, or memory does not hold all models and matrices.
    """
    layout = models.layout
    free = joint_dims(layout)
    network = sum(piece.elements for bound in layout.tensors.values() for piece in bound.pieces)
    matrices = sum(layout.dims[dim].size ** 2 for dim in free)
    size = similarity_dtype(layout, models.states[0]).itemsize
    if not free or size * COPIES * len(models) * (network + matrices) > free_memory():
        raise ContentError(
            f"Frank-Wolfe moves all dims of {layout.spec.name} in {len(models)} models together: none can move so, or "
            "memory does not hold them all",
            remedy="--algorithm cycle-consistent takes one model after another",
        )


class _Joint:
    """The objective over the matrices of all models but the first."""

    def __init__(self, models: Models, held: Sequence[Permutation], device: torch.device) -> None:
        self.weights = models.weights
        free = joint_dims(models.layout)
        dtype = similarity_dtype(models.layout, models.states[0])
        self.mixers = [
            Mixer(models.layout, state, free, permutation, device, dtype)
            for state, permutation in zip(models.states, held, strict=True)
        ]
        sizes = {dim: models.layout.dims[dim].size for dim in free}
        self.eye = {dim: torch.eye(n, dtype=dtype, device=device) for dim, n in sizes.items()}

    def start(self, start: RelaxedStart) -> list[Matrices]:
        """Where the matrices begin."""
        if start == "identity":
            return [dict(self.eye) for _ in self.mixers[1:]]
        even = {dim: torch.full_like(eye, 1 / len(eye)) for dim, eye in self.eye.items()}
        return [even for _ in self.mixers[1:]]

    def value(self, present: Sequence[Matrices]) -> Tensor:
        """The objective over all that is mixed, as ½ (‖Σ w_i X_i(M_i)‖² − Σ ‖w_i X_i(M_i)‖²)."""
        parts = []
        for softs in zip(*(mixer.pieces() for mixer in self.mixers), strict=True):
            mixed = [
                weight * soft.mixed(matrices)
                for weight, soft, matrices in zip(self.weights, softs, (self.eye, *present), strict=True)
            ]
            parts.append(torch.stack(mixed).sum(0).square().sum() - sum(one.square().sum() for one in mixed))
        return 0.5 * torch.stack(parts).sum()

    def vertices(self, gradients: Sequence[Matrices]) -> list[dict[str, Tensor]]:
        """For each model the permutations that have most in common with a gradient."""
        return [
            {dim: torch.from_numpy(solve_assignment(gradient).columns) for dim, gradient in one.items()}
            for one in gradients
        ]

    def step(self, present: Sequence[Matrices]) -> list[Matrices] | None:
        """The best point on the way to the vertices that the gradient points at; None if there is nothing to gain."""
        leaves = [{dim: x.detach().clone().requires_grad_() for dim, x in one.items()} for one in present]
        value = self.value(leaves)
        value.backward()  # type: ignore[no-untyped-call]
        gradients = [{dim: x.grad for dim, x in one.items() if x.grad is not None} for one in leaves]
        towards = [
            {dim: self.eye[dim][vertex] - x for (dim, x), vertex in zip(one.items(), corners.values(), strict=True)}
            for one, corners in zip(present, self.vertices(gradients), strict=True)
        ]
        slope = sum(
            float((gradient[dim] * way[dim]).double().sum())
            for gradient, way in zip(gradients, towards, strict=True)
            for dim in way
        )
        start = float(value.detach())
        if slope <= TOLERANCE * abs(start):
            return None

        def along(size: float) -> list[Matrices]:
            return [
                {dim: x + size * way[dim] for dim, x in one.items()} for one, way in zip(present, towards, strict=True)
            ]

        with torch.no_grad():
            size = best_step(start, slope, lambda size: float(self.value(along(size))))
        return along(size) if size > 0 else None


def best_step(value: float, slope: float, at: Callable[[float], float]) -> float:
    """The place in [0, 1] of the highest value of a polynomial of degree four, of which value and slope at 0 are known
    and three more values are asked for."""
    where = np.array([1 / 3, 2 / 3, 1.0])
    rest = np.array([at(t) for t in where]) - value - slope * where
    bends = np.linalg.solve(where[:, None] ** np.arange(2, 5), rest)
    curve = np.polynomial.Polynomial([value, slope, *bends])
    turns = [complex(turn) for turn in curve.deriv().roots()]
    inside = [turn.real for turn in turns if abs(turn.imag) < 1e-9 and 0 < turn.real < 1]
    return max((0.0, *inside, 1.0), key=lambda size: float(curve(size)))
