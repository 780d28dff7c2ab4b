"""Signed units: indices that say of each place which unit it takes, and whether the unit's sign is turned.

`j` is unit j as it is, `~j` (that is −1 − j, below zero) is unit j with its sign turned. So one array of a dim is an
element of the group of signed permutations, and an array without negative entries is a plain permutation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Turn = Callable[[Tensor], Tensor]
"""What turning a sign does to the elements of a tensor."""


def units_of(perm: Tensor) -> Tensor:
    """The units alone."""
    return torch.where(perm < 0, ~perm, perm)


def with_turns(units: Tensor, turned: Tensor) -> Tensor:
    """Units, some of them turned once more than they are."""
    return torch.where(turned, ~units, units)


def signs_of(perm: Tensor, like: Tensor) -> Tensor:
    """1 or −1 for every entry, in the type and on the device of another tensor."""
    return torch.where(perm < 0, -1, 1).to(device=like.device, dtype=like.dtype)


def turned_where(view: Tensor, turned: Tensor, turn: Turn) -> Tensor:
    """A tensor with some of its elements turned; `turned` broadcasts to it."""
    return torch.where(turned, turn(view), view) if bool(turned.any()) else view


def taken(view: Tensor, axis: int, perm: Tensor, turn: Turn = torch.neg) -> Tensor:
    """What signed indices (n,) choose along an axis, turned where they say so."""
    perm = perm.to(view.device)
    shape = [len(perm) if at == axis else 1 for at in range(view.dim())]
    return turned_where(view.index_select(axis, units_of(perm)), (perm < 0).reshape(shape), turn)
