"""Weight matching by coordinate descent (Git Re-Basin, arXiv:2209.04836, Algorithm 1), on blocks.

Each step solves one block exactly with all others held, so that ⟨A, π(B)⟩ never falls; it ends after a sweep that
gained nothing. A block is visited again only after one that shares a tensor with it has changed: the step would
find what it found before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Literal

import torch
from torch import Tensor

from rebasin_cli.matching.descent import Descent
from rebasin_cli.matching.memory import budgets, keep_read, reading_seconds
from rebasin_cli.matching.result import MatchResult, Stop, rising
from rebasin_cli.matching.settling import is_tie, no_more_than_identity, settled
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec import Layout

SMALL = 1 << 18
"""Up to this many elements similarities are computed in float64, which costs little and breaks no ties by rounding."""

Start = Literal["identity", "anchored"]
Order = Literal["random", "forward"]
OnStep = Callable[[int, int, int, float], None]


def match_weights(
    layout: Layout,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    seed: int = 0,
    max_sweeps: int = 100,
    start: Start | Permutation = "anchored",
    order: Order = "forward",
    device: str = "cpu",
    memory: int | None = None,
    executor: Executor | None = None,
    on_step: OnStep | None = None,
) -> MatchResult:
    """Match B's units to A's by their weights.

    Args:
        layout: the spec bound to the shapes of both.
        a, b: tensors by key, never modified. What a lazy source gives is kept as far as `memory` goes, and read
            again at every visit otherwise.
        start: `anchored`, a first pass outwards from the sides that never move, each block solved with only what
            is already aligned; `identity`, as in Algorithm 1; or a permutation to improve.
        order: `forward` visits the blocks of a sweep in the spec's order, `random` as Algorithm 1 does.
        memory: bytes to keep between visits, in tensors of lazy sources and in similarity matrices; None for at
            most 512 MiB.
        executor: shares the work of large products out; the result does not depend on it.
        on_step: called after each step with sweep, step, steps in a sweep, and the objective; it may raise `Enough`.

    Returns:
        The permutation and the objective per sweep. It is a local optimum: another start or order may end elsewhere.
        Units that gain nothing by moving are in their own places, and where none does it is the identity.
    """
    begin = start if isinstance(start, Permutation) else Permutation.identity(layout)
    for_tensors, for_matrices = budgets(memory)
    kept_a, kept_b = keep_read(a, for_tensors), keep_read(b, for_tensors)
    already = reading_seconds(kept_a, kept_b)
    dtype = similarity_dtype(layout, kept_a)
    descent = Descent(layout, kept_a, kept_b, torch.device(device), dtype, begin, for_matrices, executor)
    generator = torch.Generator().manual_seed(seed)
    objective = [descent.objective()]
    if start == "anchored" and descent.blocks:
        objective.append(descent.anchor())
    todo = descent.blocks
    stop: Stop = "converged" if todo else "nothing-to-move"
    for sweep in range(max_sweeps if todo else 0):
        visits = torch.randperm(len(todo), generator=generator).tolist() if order == "random" else range(len(todo))
        reached = objective[-1]

        def on_visit(done: int, gained: float, sweep: int = sweep, reached: float = reached) -> None:
            if on_step:
                on_step(sweep, done, len(todo), reached + gained)

        gained, enough = descent.sweep([todo[which] for which in visits], on_visit)
        objective.append(reached + gained)
        if enough or gained == 0.0:
            stop = enough or stop
            break
    else:
        stop = "max-sweeps" if todo else stop
    permutation = settled(layout, kept_a, kept_b, descent.permutation, objective[-1])
    if not isinstance(start, Permutation) and no_more_than_identity(
        layout, kept_a, kept_b, permutation, objective[-1], objective[0], executor
    ):
        if start == "anchored" and not is_tie(objective[-1], objective[0]):  # led astray: from there it cannot fall
            return match_weights(
                layout, kept_a, kept_b, seed=seed, max_sweeps=max_sweeps, start="identity", order=order, device=device,
                memory=memory, executor=executor, on_step=on_step,
            )  # fmt: skip
        permutation, objective = begin, [objective[0]] * len(objective)
    return MatchResult(
        method="weights",
        permutation=permutation,
        objective=rising(objective),
        stop=stop,
        seed=seed,
        seconds={"read": reading_seconds(kept_a, kept_b) - already, **descent.seconds},
        solves=sum(descent.solvers.values()),
        solvers=dict(descent.solvers),
        gap=descent.gap,
    )


def similarity_dtype(layout: Layout, a: Mapping[str, Tensor]) -> torch.dtype:
    """The type of the similarities."""
    bound = [t for t in layout.tensors.values() if t.section == "tensors"]
    elements = sum(piece.elements for tensor in bound for piece in tensor.pieces)
    wide = elements <= SMALL or (bool(bound) and a[bound[0].key].dtype == torch.float64)
    return torch.float64 if wide else torch.float32
