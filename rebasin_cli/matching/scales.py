"""Scales of units that are matched: both networks in their balanced form, and then exactly, unit by unit.

Any positive scale of a unit keeps the function (of a ReLU, say: its row times s, the column that reads it divided by
s), and lengths that differ for no other reason mislead a match. Of all forms of a network the *balanced* one is the
shortest: every unit's row is as long as its column. In it each unit of B has the scale with the least distance
‖A − g(B)‖, a root of a polynomial of degree 4.

The scales act linearly on tensors, so that bringing A back to the form it had takes the whole line along: B alone
changes, and every network between A and B computes what it computes between the balanced ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from rebasin_cli.permutation.gather import over_sides, owner_sides, permute_tensor, permuted, piece_view
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import INDEX_SIDE, Layout, Piece

State = Mapping[str, Tensor]
Scales = dict[str, Tensor]

ROUNDS = 100
"""Passes over all dims at most: a network of ten layers is balanced to the last digit after some thirty."""

SETTLED = 1e-12
"""Change of a logarithm from which on a scale is at rest."""

ROUNDING = 1e-10
"""How far from 1 a scale is none: units of equal networks are left as they are."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """Products of the elements of a piece, summed over all sides but those that scales act on and their owners.

    Attributes:
        piece: the sides that are left; place: as of `BoundTensor`.
        cross: ⟨A, B⟩ in float64, an axis for each side; own: ⟨B, B⟩.
    """

    piece: Piece
    place: int
    cross: Tensor
    own: Tensor


class _Terms(NamedTuple):
    """‖A − g(B)‖² as a function of the scales s of a dim: written·s² + read/s² − 2·cross_written·s − 2·cross_read/s."""

    written: Tensor
    read: Tensor
    cross_written: Tensor
    cross_read: Tensor

    def at(self, s: Tensor) -> Tensor:
        """The part of the squared distance that depends on each unit's scale."""
        return self.written * s**2 + self.read / s**2 - 2 * (self.cross_written * s + self.cross_read / s)


_Best = Callable[[_Terms, Tensor, bool], Tensor]
"""Of a dim's terms, its present scales, and whether it is the first round: the best ones."""


def balance(layout: Layout, state: State) -> Scales:
    """The scales that bring a network into its balanced form."""
    sums = _reduced(layout, state, state, Permutation({}))
    return _descended(layout, sums, lambda terms, *_: (terms.read / terms.written) ** 0.25)


def nearest(layout: Layout, a: State, b: State, permutation: Permutation) -> Scales:
    """The scales with which π(B) is nearest to A, unit by unit until they are at rest; the distance never rises."""
    return _descended(layout, _reduced(layout, a, b, permutation), _nearest)


def balanced(layout: Layout, state: State, scales: Scales) -> State:
    """The network in its balanced form, lazily."""
    return permuted(Permutation({}, scales), layout, state)


def with_scales(
    layout: Layout, a: State, b: State, permutation: Permutation, forms: tuple[Scales, Scales] | None = None
) -> Permutation:
    """A permutation that was found, with the scales of B's units; `forms`: what balances A and B, where it is known."""
    one, two = forms or (balance(layout, a), balance(layout, b))
    scales = nearest(layout, balanced(layout, a, one), balanced(layout, b, two), permutation)
    found = _between(layout, two, replace(permutation, scales=scales), _inverse(one))
    near = {dim: torch.where((scale - 1).abs() < ROUNDING, 1.0, scale) for dim, scale in found.scales.items()}
    return replace(found, scales=near)


def in_balance(layout: Layout, permutation: Permutation, a: State, b: State) -> tuple[State, State, Permutation]:
    """The same of A and B as `all_in_balance` gives of many."""
    (one, two), (_, between) = all_in_balance(layout, (a, b), (Permutation({}), permutation))
    return one, two, between


def all_in_balance(
    layout: Layout, states: Sequence[State], permutations: Sequence[Permutation]
) -> tuple[tuple[State, ...], tuple[Permutation, ...]]:
    """Networks in the form in which they are compared, and what permutations onto the first one do between these:
    balanced where they scale units, canonical where they rotate them, and as they are otherwise."""
    if any(permutation.has_maps for permutation in permutations):
        from rebasin_cli.matching.rotations import in_canonical_forms

        return in_canonical_forms(layout, states, permutations)
    if not any(permutation.scales for permutation in permutations):
        return tuple(states), tuple(permutations)
    forms = [balance(layout, state) for state in states]
    between = (
        _between(layout, _inverse(form), permutation, forms[0])
        for form, permutation in zip(forms, permutations, strict=True)
    )
    return tuple(balanced(layout, state, form) for state, form in zip(states, forms, strict=True)), tuple(between)


def _between(layout: Layout, before: Scales, permutation: Permutation, after: Scales) -> Permutation:
    return Permutation({}, before).compose(permutation, layout).compose(Permutation({}, after), layout)


def _inverse(scales: Scales) -> Scales:
    return {dim: 1 / scale for dim, scale in scales.items()}


def _descended(layout: Layout, sums: Mapping[str, Sequence[_Sums]], best: _Best) -> Scales:
    """Scales that are each the best with the others held; units of which nothing is known stay as they are."""
    scales = {dim: torch.ones((*layout.owner_sizes(dim), layout.dims[dim].size), dtype=torch.float64) for dim in sums}
    for round_ in range(ROUNDS):
        change = 0.0
        for dim, present in scales.items():
            found = best(_terms(dim, scales, sums[dim]), present, round_ == 0)
            found = torch.where(found.isfinite() & (found > 0), found, present)
            change = max(change, float((found / present).log().abs().max()))
            scales[dim] = found
        if change < SETTLED:
            break
    return scales


def _nearest(terms: _Terms, present: Tensor, first: bool) -> Tensor:
    """The best scales: of all roots of the derivative in the first round, then of the root near the present ones."""
    known = (terms.written > 0) & (terms.read > 0)
    candidates = _roots(terms, present, known) if first else torch.stack([present, _newton(terms, present)])
    found = candidates.gather(0, terms.at(candidates).nan_to_num(torch.inf).argmin(0)[None])[0]
    return torch.where(known, found, present)


def _newton(terms: _Terms, present: Tensor) -> Tensor:
    """The root of the derivative that steps from the present scales lead to."""
    found = present
    for _ in range(4):
        slope = 2 * (terms.written * found - terms.read / found**3 - terms.cross_written + terms.cross_read / found**2)
        bend = 2 * (terms.written + 3 * terms.read / found**4 - 2 * terms.cross_read / found**3)
        step = torch.where(bend > 0, slope / bend, torch.zeros_like(bend))
        found = (found - step).clamp(found / 2, found * 2)
    return found


def _roots(terms: _Terms, present: Tensor, known: Tensor) -> Tensor:
    """The present scales, and all real positive roots of the derivative."""
    one = torch.ones_like(present)
    # written·s⁴ − cross_written·s³ + cross_read·s − read = 0, as the eigenvalues of its companion matrix
    companion = torch.zeros(*present.shape, 4, 4, dtype=torch.float64)
    companion[..., 1, 0] = companion[..., 2, 1] = companion[..., 3, 2] = 1
    scale = torch.where(known, terms.written, one)
    for row, part in enumerate((terms.read, -terms.cross_read, torch.zeros_like(one), terms.cross_written)):
        companion[..., row, 3] = torch.where(known, part / scale, one)
    roots = torch.linalg.eigvals(companion).movedim(-1, 0)
    real = (roots.imag.abs() <= 1e-9 * roots.abs()) & (roots.real > 0)
    return torch.cat([present[None], torch.where(real, roots.real, present)])


def _terms(dim: str, scales: Scales, sums: Iterable[_Sums]) -> _Terms:
    """The squared distance as a function of one dim's scales, those of the others held."""
    own, cross = (
        {power: torch.zeros_like(scales[dim]) for power in (1, -1)} for _ in range(2)
    )  # fmt: skip
    for one in sums:
        for at, side in enumerate(one.piece.sides):
            if side.dim != dim or not side.power:
                continue
            factor = torch.ones((), dtype=torch.float64)
            for other, that in enumerate(one.piece.sides):
                if other != at and that.power and that.dim in scales:
                    factor = factor * over_sides(scales[that.dim] ** that.power, one.piece, other, one.place)
            _add(own[side.power], one.own * factor**2, one, at)
            _add(cross[side.power], one.cross * factor, one, at)
    return _Terms(own[1], own[-1], cross[1], cross[-1])


def _add(total: Tensor, values: Tensor, one: _Sums, at: int) -> None:
    """Add sums over all sides of a piece to those of the units on one side, (*owner sizes, n)."""
    owners = owner_sides(one.piece, at)
    if INDEX_SIDE in owners:
        total, owners = total[one.place], owners[1:]
    axes = [*owners, at]
    others = [side for side in range(values.dim()) if side not in axes]
    order = sorted(axes)
    summed = values.sum(others) if others else values
    total += summed.permute([order.index(axis) for axis in axes])


def _reduced(layout: Layout, a: State, b: State, permutation: Permutation) -> dict[str, list[_Sums]]:
    """The sums that each dim's scales take part in."""
    found: dict[str, list[_Sums]] = {dim: [] for dim in layout.scaled()}
    for key, bound in layout.tensors.items():
        acting = [piece for piece in bound.pieces if any(side.power and side.dim in found for side in piece.sides)]
        if bound.section != "tensors" or not acting:
            continue
        one, two = a[key].contiguous(), permute_tensor(permutation, layout, key, b.__getitem__).contiguous()
        for piece in acting:
            scaled = [at for at, side in enumerate(piece.sides) if side.power and side.dim in found]
            kept = sorted({*scaled, *(owner for at in scaled for owner in owner_sides(piece, at) if owner >= 0)})
            x, y = (_flat(piece_view(tensor, piece), kept) for tensor in (one, two))
            cross, own = (torch.einsum("...r,...r->...", *pair) for pair in ((x, y), (y, y)))
            sums = _Sums(_kept(piece, kept), bound.place, cross, own)
            for dim in {piece.sides[at].dim for at in scaled}:
                assert dim is not None
                found[dim].append(sums)
    return found


def _kept(piece: Piece, kept: Sequence[int]) -> Piece:
    """The piece made of some of its sides alone."""
    places = {old: new for new, old in enumerate(kept)} | {None: None, INDEX_SIDE: INDEX_SIDE}
    return Piece(0, tuple(replace(piece.sides[at], owner=places.get(piece.sides[at].owner)) for at in kept))


def _flat(view: Tensor, kept: Sequence[int]) -> Tensor:
    """In float64 with the sides in `kept` first, and one last axis for the others."""
    others = [at for at in range(view.dim()) if at not in kept]
    moved = view.permute([*kept, *others])
    return moved.reshape([*moved.shape[: len(kept)], -1]).double()
