"""Proof that the signs, scales and rotations of a spec are symmetries: random ones on the real network, whose outputs
must not change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Literal

import torch
from torch import Tensor

from rebasin_cli.permutation.gather import permute_tensor, permuted, piece_view
from rebasin_cli.permutation.values import Permutation, with_turns
from rebasin_cli.spec import Layout
from rebasin_cli.spec.binding.layout import STREAMS

State = Mapping[str, Tensor]
Kind = Literal["signs", "scales", "rotations"]


@dataclass(frozen=True, slots=True)
class ActingProof:
    """What a proof of signs, scales or rotations found.

    Attributes:
        families: dims (families, such as `mlp`) that have them here.
        error: largest change of an output under random elements, relative to the largest output.
        elements: how many were drawn.
        breaking: families whose signs or scales alone change the outputs; untold: those of which the outputs tell
            nothing.
        parted: keys of one tensor of the network on which they act differently.
        lacking: families whose scales need what this network does not have behind them (`before ReLU`), or whose
            rotations would part one tensor of the network, as of a tied head; nothing is said of these.
    """

    kind: Kind
    families: tuple[str, ...]
    error: float
    elements: int
    tolerance: float
    breaking: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    parted: tuple[tuple[str, ...], ...] = ()
    lacking: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether they are proved."""
        return self.error <= self.tolerance and not (self.breaking or self.untold or self.parted)

    def describe(self) -> str:
        """What was proved."""
        how = "turned" if self.kind == "signs" else "changed" if self.kind == "scales" else "drawn"
        why = "no ReLU follows" if self.kind == "scales" else "they would part tied tensors"
        proved = (
            f", and to {self.error:.1e} with {self.kind} of {', '.join(self.families)} {how}" if self.families else ""
        )
        needs = f"; the {self.kind} of {', '.join(self.lacking)} do not hold here, as {why}" if self.lacking else ""
        return proved + needs

    def problems(self) -> Iterator[str]:
        """What is wrong with them."""
        how, one = {
            "signs": ("turned", "turning signs"), "scales": ("changed", "changing scales"),
            "rotations": ("drawn", "rotations"),
        }[self.kind]  # fmt: skip
        if not self.error <= self.tolerance:
            yield f"with {self.kind} {how} outputs change by {self.error:.1e} (tolerance {self.tolerance:.0e})"
        if self.breaking:
            yield f"{one} of {', '.join(self.breaking)} alone breaks the function"
        if self.untold:
            yield f"the outputs do not depend on {self.kind} of {', '.join(self.untold)}, which are thus not proved"
        for keys in self.parted:
            yield f"{' and '.join(keys)} are one tensor of the network, and {self.kind} act on them differently"


@dataclass(frozen=True, slots=True)
class Judge:
    """By what a proof judges.

    Attributes:
        change: by how much the network's outputs on a state differ from those on `state`; up to `tolerance` it is none.
        ties: keys that are one tensor in the network.
        elements: how many random elements; seconds: after which no further one is drawn.
    """

    state: State
    change: Callable[[State], float]
    tolerance: float
    ties: Collection[tuple[str, ...]]
    elements: int
    seconds: float


def prove_acting(kind: Kind, layout: Layout, judge: Judge, seed: int) -> ActingProof | None:
    """Prove the signs of a layout, its scales, or its rotations; None where it has none.

    Args:
        layout: with one of the three.
    """
    families: dict[str, list[str]] = {}
    for dim in {"signs": layout.signed, "scales": layout.scaled, "rotations": layout.rotated}[kind]():
        families.setdefault(dim.split(".")[0], []).append(dim)
    if not families:
        return None
    state, change, tolerance = judge.state, judge.change, judge.tolerance
    acting = _acting(kind, layout, seed)
    if kind == "rotations" and broken_ties(layout, judge.state, judge.ties, [acting]):
        streams = [dim for dim in layout.rotated() if layout.dims[dim].rotated in STREAMS]
        parting = tuple(dict.fromkeys(dim.split(".")[0] for dim in streams))
        found = prove_acting(kind, layout.without_rotations(streams), judge, seed)
        return replace(found, lacking=parting) if found else None

    def breaks(family: str) -> bool:
        return not change(dict(permuted(acting.only(families[family]), layout, state))) <= tolerance

    needing = {str(rule.name.parts[0]) for rule in layout.spec.scales if rule.needs} if kind == "scales" else set()
    lacking = tuple(family for family in families if family in needing and breaks(family))
    families = {family: dims for family, dims in families.items() if family not in lacking}
    kept = {dim for dims in families.values() for dim in dims}
    end = monotonic() + judge.seconds
    error, count = 0.0, 0
    while families and count < judge.elements and error <= tolerance and (not count or monotonic() < end):
        drawn = Permutation.random(layout, seed + count)
        drawn = replace(drawn, scales={dim: scale for dim, scale in drawn.scales.items() if dim in kept})
        error = max(error, change(dict(permuted(drawn, layout, state))))
        count += 1
    breaking, untold = [], []
    for family, dims in families.items():
        if error > tolerance and breaks(family):
            breaking.append(family)
        broken = _broken_states(layout, judge, acting.only(dims[:1]), dims[0])
        if not any(change(one) > 100 * tolerance for one in broken):
            untold.append(family)
    parted = broken_ties(layout, judge.state, judge.ties, [acting.only(kept)])
    return ActingProof(
        kind, tuple(families), error, count, tolerance, tuple(breaking), tuple(untold), parted, lacking
    )  # fmt: skip


def _acting(kind: str, layout: Layout, seed: int) -> Permutation:
    """Every unit in its own place, some of every dim turned and some not, or all scaled."""
    identity = Permutation.identity(layout)
    if kind != "signs":
        return replace(Permutation.random(layout, seed), indices=identity.indices)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for dim in layout.signed():
        turned = torch.randint(2, identity[dim].shape, generator=generator).bool()
        turned[..., 0], turned[..., 1] = True, False
        found[dim] = with_turns(identity[dim], turned)
    return Permutation(found)


def _broken_states(layout: Layout, judge: Judge, element: Permutation, dim: str) -> Iterator[State]:
    """States in which an element of one dim acts on one piece of one tensor alone: a fused tensor may hold all on which
    it does."""
    for key in layout.users[dim]:
        tensor = judge.state[key].contiguous()
        changed = permute_tensor(element, layout, key, judge.state.__getitem__)
        for piece in layout.tensors[key].pieces:
            there = piece_view(changed, piece)
            if not torch.equal(there, piece_view(tensor, piece)):
                moved = tensor.clone()
                piece_view(moved, piece).copy_(there)
                tie = next((tie for tie in judge.ties if key in tie), (key,))
                yield {**judge.state, **dict.fromkeys(tie, moved)}


def broken_ties(
    layout: Layout, state: State, ties: Iterable[tuple[str, ...]], elements: Sequence[Permutation]
) -> tuple[tuple[str, ...], ...]:
    """Ties whose tensors are no longer equal under some element."""

    def part(element: Permutation, tie: tuple[str, ...]) -> bool:
        one, *others = (permute_tensor(element, layout, key, state.__getitem__) for key in tie)
        return not all(torch.equal(one, other) for other in others)

    return tuple(tie for tie in ties if any(part(element, tie) for element in elements))
