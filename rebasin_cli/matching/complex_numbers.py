"""Complex tensors as pairs of reals: ⟨a, b⟩ is then Re Σ ā·b, and a distance counts both parts.

The permutation is of units, so that what is found for the pairs is the permutation of the complex tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rebasin_cli.spec import Layout, Piece, Side

State = Mapping[str, Tensor]


def in_reals(layout: Layout, *states: State) -> tuple[Layout, tuple[State, ...]]:
    """The layout and the states with a last side of two for every tensor that is complex in one of them.

    The same objects where nothing is complex.
    """
    keys = frozenset(key for key in layout.tensors if any(_is_complex(state, key) for state in states))
    if not keys:
        return layout, states
    tensors = {
        key: replace(bound, pieces=tuple(map(_paired, bound.pieces))) if key in keys else bound
        for key, bound in layout.tensors.items()
    }
    return replace(layout, tensors=tensors), tuple(_Reals(state, keys) for state in states)


class _Reals(Mapping[str, Tensor]):
    """A state with some tensors as pairs (…, 2) of reals; lazy as the state is."""

    def __init__(self, state: State, keys: frozenset[str]) -> None:
        self._state, self._keys = state, keys

    def __getitem__(self, key: str) -> Tensor:
        tensor = self._state[key]
        if key not in self._keys:
            return tensor
        if not tensor.is_complex():
            return torch.stack([tensor, torch.zeros_like(tensor)], -1)
        return torch.view_as_real(tensor.resolve_conj()).contiguous()

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def _is_complex(state: State, key: str) -> bool:
    infos = getattr(state, "infos", None)  # of a checkpoint, whose tensors are not read for this
    if infos is not None:
        return key in infos and infos[key].dtype == "C64"
    return key in state and state[key].is_complex()


def _paired(piece: Piece) -> Piece:
    sides: Sequence[Side] = [replace(side, stride=2 * side.stride) for side in piece.sides]
    return Piece(2 * piece.offset, (*sides, Side(None, 2, 1)))
