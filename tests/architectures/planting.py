"""Hiding a permutation in a network's own weights, and looking for it."""

from __future__ import annotations

import torch

from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.problem import Problem, Resources
from rebasin_cli.matching.scales import balance, balanced, with_scales
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.spec import Layout, Request, bind, find_spec

NOISE = 1e-3
"""Of each tensor's own scale."""


def shortfall(name: str, subject: Subject, seeds: int = 1, *, signs: bool = False) -> tuple[float, int]:
    """How far matching stays below the planted permutation, as a share of its objective, and the seeds it took.

    B is the network permuted at random, plus noise; the planted solution is the inverse of what was done to it.
    Starts from identity with one seed after another until the planted objective is reached.

    Args:
        signs: whether signs are turned, too.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in subject.state.items()}
    layout = bind(find_spec(name), shapes, Request(subject.config, subject.overrides, signs=signs))
    planted = Permutation.random(layout, 1)
    generator = torch.Generator().manual_seed(2)
    b = {}
    for key, tensor in permuted(planted, layout, subject.state).items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
            tensor = tensor + NOISE * float(tensor.double().square().mean().sqrt()) * noise
        b[key] = tensor
    goal = inner_product(layout, subject.state, b, planted.inverse(layout))
    best = float("inf")
    for seed in range(seeds):
        result = match_by_weights(Problem(layout, subject.state, b), Resources(seed=seed))
        reached = inner_product(layout, subject.state, b, result.permutation)
        best = min(best, (goal - reached) / abs(goal))
        if best <= 1e-9:
            return best, seed + 1
    return best, seeds


def distance_left(name: str, subject: Subject, seeds: int = 5) -> float:
    """‖A − g(B)‖ after a match with permutations, signs and scales, as a share of the noise in B.

    B is the network and noise, then permuted, turned and scaled at random; starts from identity with one seed after
    another until nothing but noise is left.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in subject.state.items()}
    layout = bind(find_spec(name), shapes, Request(subject.config, subject.overrides, signs=True, scales=True))
    generator = torch.Generator().manual_seed(2)
    a = {key: tensor.double() for key, tensor in subject.state.items() if key in _counted(layout)}
    state = {**subject.state, **a}
    noisy = dict(state)
    for key, tensor in a.items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        noisy[key] = tensor + NOISE * float(tensor.square().mean().sqrt()) * noise
    b = dict(permuted(Permutation.random(layout, 1), layout, noisy))
    one, two = (balanced(layout, each, balance(layout, each)) for each in (state, b))
    problem = Problem(layout.without_scales(), {key: one[key] for key in b}, {key: two[key] for key in b})
    best = float("inf")
    for seed in range(seeds):
        found = with_scales(layout, state, b, match_by_weights(problem, Resources(seed=seed)).permutation)
        moved = permuted(found, layout, b)
        left, planted = (
            sum(float((a[key] - other[key]).square().sum()) for key in a) ** 0.5 for other in (moved, noisy)
        )
        best = min(best, left / planted)
        if best <= 1.5:
            break
    return best


def _counted(layout: Layout) -> set[str]:
    return {key for key, bound in layout.tensors.items() if bound.section == "tensors"}
