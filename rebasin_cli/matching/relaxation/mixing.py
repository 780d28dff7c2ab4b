"""Doubly stochastic matrices in the place of permutations: a model's tensors with their units mixed, differentiable."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.permutation.gather import gather_piece, permute_tensor, piece_view, source_key
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import BoundTensor, Layout, Piece


@dataclass(frozen=True, slots=True)
class Soft:
    """One piece whose units are mixed.

    Attributes:
        view: one axis a side, the sides that are held gathered already.
        sides: axis → dim, of those that are mixed.
    """

    piece: Piece
    view: Tensor
    sides: Mapping[int, str]

    def mixed(self, matrices: Mapping[str, Tensor]) -> Tensor:
        """Σ_j X[i, j] b[.., j, ..] along every side that is mixed; gradients flow into the matrices."""
        view = self.view
        for axis, dim in self.sides.items():
            view = torch.tensordot(matrices[dim], view, dims=([1], [axis])).movedim(0, axis)
        return view


class Mixer:
    """A model prepared for mixing along some dims, all other dims held at a permutation.

    Args:
        free: the dims to be mixed; of those within others none.
        buffers: whether tensors that are moved but not matched (running statistics) are mixed, too.

    Attributes:
        soft: key → its pieces, for every tensor in which something is mixed.
    """

    def __init__(
        self, layout: Layout, state: Mapping[str, Tensor], free: Collection[str], held: Permutation,
        device: torch.device, dtype: torch.dtype = torch.float32, *, buffers: bool = False,
    ) -> None:  # fmt: skip
        self.layout, self.state, self.held, self.device, self.dtype = layout, state, held, device, dtype
        wanted = ("tensors", "buffers") if buffers else ("tensors",)
        self.soft: dict[str, tuple[Soft, ...]] = {}
        for key, bound in layout.tensors.items():
            if bound.section in wanted and any(side.dim in free for piece in bound.pieces for side in piece.sides):
                self.soft[key] = tuple(self._prepared(bound, free))

    def _prepared(self, bound: BoundTensor, free: Collection[str]) -> Iterator[Soft]:
        tensor = self._wide(self.state[source_key(self.held, bound)])
        for piece in bound.pieces:
            sides = {at: str(side.dim) for at, side in enumerate(piece.sides) if side.dim in free}
            yield Soft(piece, gather_piece(piece_view(tensor, piece), piece, self.held, bound.place, skip=sides), sides)

    def _wide(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(device=self.device, dtype=self.dtype).contiguous()

    def pieces(self) -> Iterator[Soft]:
        """All that is mixed, in the same order for every model of a layout."""
        for found in self.soft.values():
            yield from found

    def moved(self, key: str, matrices: Mapping[str, Tensor]) -> Tensor:
        """The tensor that comes to stand under `key`."""
        found = self.soft.get(key)
        if found is None:
            return self._wide(permute_tensor(self.held, self.layout, key, self.state.__getitem__))
        shape = self.state[key].shape
        if len(found) == 1:
            return found[0].mixed(matrices).reshape(shape)
        whole = torch.empty(shape, dtype=self.dtype, device=self.device)
        for soft in found:
            piece_view(whole, soft.piece).copy_(soft.mixed(matrices))
        return whole


def between(a: Mapping[str, Tensor], b: Mixer, matrices: Mapping[str, Tensor], lam: float) -> dict[str, Tensor]:
    """(1 − λ) A + λ X(B); what has no mean is A's."""
    state = {}
    for key, tensor in a.items():
        if b.layout.tensors[key].section == "ignored" or not tensor.is_floating_point():
            state[key] = tensor
        else:
            state[key] = torch.lerp(tensor.to(device=b.device, dtype=b.dtype), b.moved(key, matrices), lam)
    return state
