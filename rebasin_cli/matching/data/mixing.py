"""Weights and activations together: units that are alike in both belong together.

The two are brought to one scale block by block: what the activations of a block have in common counts, from 0 to 1, as
much as its weights would if they were equal. For a share m of activations the search raises

    (1 − m) ⟨A, π(B)⟩ + m Σ_blocks ‖A_b‖ ‖B_b‖ r_b(π),

with ‖A_b‖ the norm of the tensors in which the block b stands, and r_b the mean correlation of its paired units. It is
one objective for all blocks, so that coordinate descent never falls. Of other scales, that of all weights for every
block shifts the balance from block to block with the sizes of layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from time import perf_counter

import torch
from torch import Tensor

from rebasin_cli.matching.descent.nested import solve_of_layout
from rebasin_cli.matching.descent.settling import settled
from rebasin_cli.matching.descent.step import Step
from rebasin_cli.matching.descent.sweep import Descent
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.objective import dot
from rebasin_cli.matching.problem import MatchResult, Problem, Resources, State, Stop
from rebasin_cli.matching.resources import budgets
from rebasin_cli.matching.similarity.blocks import Block, block_keys, blocks
from rebasin_cli.matching.similarity.contributions import Dense, Form, Forms
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout

Grams = Mapping[tuple[str, ...], Tensor]

_SWEEPS = 100


def match_by_both(problem: Problem, grams: Grams, mix: float, resources: Resources) -> MatchResult:
    """Match B's units to A's by weights and activations.

    Args:
        grams: correlations, as of `pair_grams`; mix: the share of activations, below 1.

    Returns:
        The better of two descents by the mixed objective: from where activations alone end, and from where weights
        alone do. `objective` is ⟨A, π(B)⟩ of the weights before and after, as for activations alone.
    """
    began = perf_counter()
    layout = problem.layout
    beside = forms_beside(layout, grams, mix, norms_of(layout, problem.a), norms_of(layout, problem.b))
    start = problem.objective(Permutation.identity(layout))
    begin = match_by_weights(problem, resources).permutation
    found = best_by_both(problem, beside, [by_forms(layout, beside), begin])
    permutation = settled(problem, found.permutation, problem.objective(found.permutation))
    if problem.objective(permutation) + worth_beside(layout, beside, permutation) < found.value:
        permutation = found.permutation
    return MatchResult(
        method="activations",
        permutation=permutation,
        objective=(start, problem.objective(permutation)),
        stop=found.stop,
        seed=resources.seed,
        seconds={"assignment": perf_counter() - began},
        solves=found.solves,
    )


@dataclass(frozen=True, slots=True)
class Found:
    """Where a descent by both ends: what it is worth, why it ended, and how many assignments all descents took."""

    permutation: Permutation
    value: float
    stop: Stop
    solves: int


def best_by_both(problem: Problem, beside: Mapping[str, Forms], begins: Sequence[Permutation]) -> Found:
    """The best of the descents from several permutations."""
    best: Found | None = None
    solves = 0
    for begin in begins:
        descent = Descent(problem, begin, torch.float64, torch.device("cpu"), budgets(None)[1], beside=beside)
        stop: Stop = "converged" if descent.blocks else "nothing-to-move"
        for sweep in range(_SWEEPS):
            if not descent.sweep(descent.blocks)[0]:
                break
            if sweep == _SWEEPS - 1:
                stop = "max-sweeps"
        value = descent.objective() + worth_beside(problem.layout, beside, descent.permutation)
        solves += sum(descent.solvers.values())
        if best is None or value > best.value:
            best = Found(descent.permutation, value, stop, solves)
    assert best is not None
    return replace(best, solves=solves)


def norms_of(layout: Layout, state: State) -> dict[str, float]:
    """The norm of the tensors in which each block stands, by its root."""
    squares = {key: dot(state[key], state[key]) for key, b in layout.tensors.items() if b.section == "tensors"}
    return {block.root: sqrt(sum(squares[key] for key in block_keys(layout, block))) for block in blocks(layout)}


def forms_beside(
    layout: Layout, grams: Grams, mix: float, a: Mapping[str, float], b: Mapping[str, float]
) -> dict[str, Forms]:
    """What activations add to every block's forms, relative to a share 1 of weights; a, b: norms by root."""
    found: dict[str, Forms] = {}
    for block in blocks(layout):
        own = {dims: gram for dims, gram in grams.items() if set(dims) <= set(block.dims)}
        units = sum(prod(gram.shape[: gram.dim() // 2]) for gram in own.values())
        if own and units:
            scale = mix / (1 - mix) * a[block.root] * b[block.root] / units
            found[block.root] = {dims: _forms(scale * gram) for dims, gram in own.items()}
    return found


def _forms(gram: Tensor) -> list[Form]:
    return [Dense(gram[None])]


def by_forms(layout: Layout, beside: Mapping[str, Forms]) -> Permutation:
    """The best permutation by activations alone; blocks whose dims they do not all speak of stay."""
    permutation = Permutation.identity(layout)
    moving = set(layout.moving())
    for block in blocks(layout):
        forms = beside.get(block.root, {})
        if {dim for dims in forms for dim in dims} >= set(block.dims) & moving:
            permutation = permutation.replace(_solved(layout, block, forms, permutation)[0])
    return permutation


def worth_beside(layout: Layout, beside: Mapping[str, Forms], permutation: Permutation) -> float:
    """What activations add at a permutation."""
    return sum(_solved(layout, b, beside[b.root], permutation)[1] for b in blocks(layout) if b.root in beside)


def _solved(
    layout: Layout, block: Block, forms: Forms, permutation: Permutation
) -> tuple[dict[str, Tensor], float, float]:
    return solve_of_layout(layout, block, forms, permutation, Step().solve_all)
