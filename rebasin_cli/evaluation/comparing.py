"""One network under two states: by how much its outputs differ, where that begins, and how much of it is rounding.

A permutation that keeps the function changes outputs by rounding alone, and what a module inside of the network makes
by its order alone. Both are measured: nothing else tells a wrong permutation spec as surely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Trace = list[tuple[str, Tensor]]
Run = Callable[[Mapping[str, Tensor], Trace | None], Mapping[str, Tensor]]
"""From a state dict to the outputs by name; given a list, it appends (module, output) in the order of execution."""

_ROUNDINGS = 32
"""Differences are rounding up to this many times what the last digit of float32 weights does to the outputs: sums in
another order round once for every term, and a perturbed weight once for every weight."""

_LEAST, _MOST = 1e-6, 1e-2
"""Below the first a difference is rounding whatever the network; above the second it is none."""

_SEEN = 1e-5
"""Relative to a module's largest output: from here on its outputs differ by more than their order."""


def change(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> float:
    """The largest change of an output, relative to the largest value of that output; infinite where it is no number.

    Values that are infinite or NaN in `reference` say nothing, and do not count.
    """
    worst = 0.0
    for name, expected in reference.items():
        finite = expected.isfinite()
        if expected.shape != outputs[name].shape:
            return float("inf")
        if not bool(finite.any()):
            continue
        values = expected[finite]
        difference = (outputs[name].to(expected)[finite] - values).abs().max()
        scale = float(values.abs().max()) or 1.0
        worst = max(worst, float(difference) / scale if bool(difference.isfinite()) else float("inf"))
    return worst


def rounding(run: Run, state: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """The change of the outputs up to which it is rounding in this network, on these inputs.

    Measured by what the last digit of float32 weights does to the outputs: a network that amplifies it is not
    known any better, in whatever precision it is run.
    """
    step = torch.finfo(torch.float32).eps

    def nudged(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        generator = torch.Generator().manual_seed(0)  # the same signs for tensors that are equal, so that ties hold
        signs = torch.randint(0, 2, tensor.shape, generator=generator, dtype=torch.int8) * 2 - 1
        wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        return wide * (1 + step * signs.to(device=wide.device, dtype=wide.dtype))

    moved = change(reference, run({key: nudged(tensor) for key, tensor in state.items()}, None))
    return min(max(_ROUNDINGS * moved, _LEAST), _MOST)


def first_difference(run: Run, one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> str:
    """The first module whose outputs differ as sets of numbers: a mere change of order is what should happen."""
    before: Trace = []
    after: Trace = []
    run(one, before)
    run(two, after)
    for (name, first), (_, second) in zip(before, after, strict=False):
        x, y = first.double().flatten().sort().values, second.double().flatten().sort().values
        if x.shape != y.shape or float((x - y).abs().max()) > _SEEN * max(1e-12, float(x.abs().max())):
            return name
    return ""
