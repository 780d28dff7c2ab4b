"""Proof that the signs of a spec are a symmetry: random signs on the real network, whose outputs must not change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor

from rebasin_cli.permutation.gather import gather_piece, permute_tensor, permuted, piece_view
from rebasin_cli.permutation.values import Permutation, with_turns
from rebasin_cli.spec import Layout

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class SignProof:
    """What a proof of signs found.

    Attributes:
        families: dims (families, such as `mlp`) with signs.
        error: largest change of an output under random permutations with random signs, relative to the largest output.
        elements: how many were drawn.
        breaking: families whose signs alone change the outputs; untold: those of which the outputs tell nothing.
        parted: keys of one tensor of the network whose signs are turned differently.
    """

    families: tuple[str, ...]
    error: float
    elements: int
    tolerance: float
    breaking: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    parted: tuple[tuple[str, ...], ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the signs are proved."""
        return self.error <= self.tolerance and not (self.breaking or self.untold or self.parted)

    def problems(self) -> Iterator[str]:
        """What is wrong with them."""
        if not self.error <= self.tolerance:
            yield f"with signs turned outputs change by {self.error:.1e} (tolerance {self.tolerance:.0e})"
        if self.breaking:
            yield f"turning signs of {', '.join(self.breaking)} alone breaks the function"
        if self.untold:
            yield f"the outputs do not depend on signs of {', '.join(self.untold)}, which are thus not proved"
        for keys in self.parted:
            yield f"{' and '.join(keys)} are one tensor of the network, and signs act on them differently"


def prove_signs(
    layout: Layout,
    state: State,
    change: Callable[[State], float],
    *,
    tolerance: float,
    ties: Collection[tuple[str, ...]],
    seed: int,
    elements: int,
    seconds: float,
) -> SignProof | None:
    """Prove the signs of a layout; None where it has none.

    Args:
        change: by how much the network's outputs on a state differ from those on `state`.
        ties: keys that are one tensor in the network.
        elements: how many random elements; seconds: after which no further one is drawn.
    """
    families: dict[str, list[str]] = {}
    for dim in layout.signed():
        families.setdefault(dim.split(".")[0], []).append(dim)
    if not families:
        return None
    end = monotonic() + seconds
    error, count = 0.0, 0
    while count < elements and error <= tolerance and (not count or monotonic() < end):
        error = max(error, change(dict(permuted(Permutation.random(layout, seed + count), layout, state))))
        count += 1
    turned = _turned(layout, seed)
    breaking, untold = [], []
    for family, dims in families.items():
        alone = Permutation({dim: turned[dim] for dim in dims})
        if error > tolerance and not change(dict(permuted(alone, layout, state))) <= tolerance:
            breaking.append(family)
        broken = _broken_states(layout, state, Permutation({dims[0]: turned[dims[0]]}), ties)
        if not any(change(one) > 100 * tolerance for one in broken):
            untold.append(family)
    return SignProof(
        tuple(families), error, count, tolerance, tuple(breaking), tuple(untold), _parted(layout, state, turned, ties)
    )


def _turned(layout: Layout, seed: int) -> Permutation:
    """Every unit in its own place, some of every dim turned and some not."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for dim in layout.signed():
        plain = Permutation.identity(layout)[dim]
        turned = torch.randint(2, plain.shape, generator=generator).bool()
        turned[..., 0], turned[..., 1] = True, False
        found[dim] = with_turns(plain, turned)
    return Permutation(found)


def _broken_states(
    layout: Layout, state: State, turned: Permutation, ties: Collection[tuple[str, ...]]
) -> Iterator[State]:
    """States in which the signs of a dim are turned in one piece of one tensor alone: a fused tensor may hold all on
    which they act."""
    (dim,) = turned
    for key in layout.users[dim]:
        bound, tensor = layout.tensors[key], state[key].contiguous()
        for piece in bound.pieces:
            view = piece_view(tensor, piece)
            there = gather_piece(view, piece, turned, bound.place)
            if not torch.equal(there, view):
                moved = tensor.clone()
                piece_view(moved, piece).copy_(there)
                yield {**state, **dict.fromkeys(next((tie for tie in ties if key in tie), (key,)), moved)}


def _parted(
    layout: Layout, state: State, turned: Permutation, ties: Collection[tuple[str, ...]]
) -> tuple[tuple[str, ...], ...]:
    """Ties whose tensors are no longer equal."""

    def part(tie: tuple[str, ...]) -> bool:
        one, *others = (permute_tensor(turned, layout, key, state.__getitem__) for key in tie)
        return not all(torch.equal(one, other) for other in others)

    return tuple(tie for tie in ties if part(tie))
