"""Doubly stochastic matrices in the place of permutations: B's tensors with their units mixed, differentiable."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.permutation import Permutation, gather_piece, permute_tensor, piece_view, source_key
from rebasin_cli.spec import BoundTensor, Layout, Piece


@dataclass(frozen=True, slots=True)
class Soft:
    """One piece beside which B's is mixed.

    Attributes:
        a: A's piece, one axis a side; b: B's, the sides that are held gathered already.
        sides: axis → dim, of those that are mixed.
    """

    bound: BoundTensor
    piece: Piece
    a: Tensor
    b: Tensor
    sides: Mapping[int, str]

    def mixed(self, matrices: Mapping[str, Tensor]) -> Tensor:
        """Σ_j X[i, j] b[.., j, ..] along every side that is mixed; gradients flow into the matrices."""
        view = self.b
        for axis, dim in self.sides.items():
            view = torch.tensordot(matrices[dim], view, dims=([1], [axis])).movedim(0, axis)
        return view


class Mixer:
    """A and B prepared for mixing along some dims, all other dims held at a permutation.

    Args:
        free: the dims to be mixed; of those within others none.
        buffers: whether tensors that are moved but not matched (running statistics) are wanted, too.
    """

    def __init__(
        self, layout: Layout, a: Mapping[str, Tensor], b: Mapping[str, Tensor], free: Collection[str],
        held: Permutation, device: torch.device, *, buffers: bool = False,
    ) -> None:  # fmt: skip
        self.layout, self.a, self.b, self.held, self.device = layout, a, b, held, device
        wanted = ("tensors", "buffers") if buffers else ("tensors",)
        self.soft: dict[str, list[Soft]] = {}
        for key, bound in layout.tensors.items():
            if bound.section in wanted and a[key].is_floating_point():
                found = list(self._prepared(bound, free))
                if found:
                    self.soft[key] = found

    def _prepared(self, bound: BoundTensor, free: Collection[str]) -> Iterator[Soft]:
        if not any(side.dim in free for piece in bound.pieces for side in piece.sides):
            return
        one, two = self._tensor(self.a[bound.key]), self._tensor(self.b[source_key(self.held, bound)])
        for piece in bound.pieces:
            sides = {at: str(side.dim) for at, side in enumerate(piece.sides) if side.dim in free}
            moved = gather_piece(piece_view(two, piece), piece, self.held, bound.place, skip=sides)
            yield Soft(bound, piece, piece_view(one, piece), moved, sides)

    def _tensor(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(device=self.device, dtype=torch.float32).contiguous()

    def inner_product(self, matrices: Mapping[str, Tensor]) -> Tensor:
        """⟨A, X(B)⟩ over all that is mixed."""
        return torch.stack([(s.a * s.mixed(matrices)).sum() for found in self.soft.values() for s in found]).sum()

    def state(self, matrices: Mapping[str, Tensor], lam: float) -> dict[str, Tensor]:
        """(1 − λ) A + λ X(B), in float32; what has no mean is A's."""
        state = {}
        for key, tensor in self.a.items():
            if self.layout.tensors[key].section == "ignored" or not tensor.is_floating_point():
                state[key] = tensor
                continue
            state[key] = torch.lerp(self._tensor(tensor), self._moved(key, tensor, matrices), lam)
        return state

    def _moved(self, key: str, tensor: Tensor, matrices: Mapping[str, Tensor]) -> Tensor:
        if key not in self.soft:
            return self._tensor(permute_tensor(self.held, self.layout, key, self.b.__getitem__))
        found = self.soft[key]
        if len(found) == 1:
            return found[0].mixed(matrices).reshape(tensor.shape)
        whole = torch.empty(tensor.shape, device=self.device)
        for soft in found:
            piece_view(whole, soft.piece).copy_(soft.mixed(matrices))
        return whole
