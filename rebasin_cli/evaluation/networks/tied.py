"""Tied weights: one tensor that a module knows under several names, and a checkpoint under some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rebasin_cli.errors import ContentError

ROUNDING = 1e-6
"""Largest difference of two copies, relative to their largest value, that is rounding."""


def tied_names(module: nn.Module) -> tuple[tuple[str, ...], ...]:
    """The names in `module.state_dict()` that stand for one tensor, a group each; only those of two names or more."""
    groups: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def joined(
    family: str, groups: Sequence[tuple[str, ...]], params: Mapping[str, Tensor], prefix: str = ""
) -> dict[str, Tensor]:
    """`params` with the first name alone of every group; gradients flow to all copies.

    Raises:
        ContentError: two copies are not equal. A module holds one of them, and the other would be lost without a word.
    """
    found = dict(params)
    for group in groups:
        first, *others = [name for name in group if name in found] or [""]
        for other in others:
            copy = found.pop(other)
            _check_equal(family, found[first], copy, prefix + first, prefix + other)
            if copy.requires_grad:
                found[first] = found[first] + (copy - copy.detach())  # the value of the one, the gradient of both
    return found


def _check_equal(family: str, one: Tensor, two: Tensor, first: str, other: str) -> None:
    if torch.equal(one, two):
        return
    scale = max(float(one.detach().abs().max()), float(two.detach().abs().max()))
    difference = float((one.detach() - two.detach()).abs().max())
    if not difference <= ROUNDING * scale:
        raise ContentError(
            f"{first} and {other} are one tensor in {family}, and two here: they differ by {difference:.3g}, "
            f"and the largest value is {scale:.3g}",
            remedy="tied tensors need one pattern in the spec and one λ (--weight); or let the network keep them apart",
        )
