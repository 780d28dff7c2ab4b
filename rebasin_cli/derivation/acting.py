"""Signs, scales and maps of a derived spec: where those of a unit act, found by running the network and proved as the
group.

A place is one axis of one tensor on which a dim stands. Scales that keep the function multiply some places of a unit,
divide others and leave the rest, so that the derivatives of the outputs by the logarithms of the places' scales cancel.
Of all ways to mark the places in a pattern (not at all, `/`, or bars) the one that cancels is taken, and tried on the
network with scales between ½ and 2. Signs are tried with the same marks; where there are no scales without marks, and
with bars around gains, as of a stream under RMSNorm.

Dims that have scales may have linear maps of all units together, with the same marks: values, queries and keys have,
and units of ReLU have not. What stands twice on an axis, as queries and keys in one tensor, is written twice, so that
marks can tell both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod

import torch
from torch import Tensor

from rebasin_cli.derivation.candidate import TOLERANCE, Candidate, Judge, spec_of, written
from rebasin_cli.derivation.expressions import moves_in, unfolded
from rebasin_cli.derivation.writing import Draft, Place
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation, with_turns
from rebasin_cli.proofs.acting import Kind
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.binder import Request
from rebasin_cli.spec.binding.layout import Layout

MOST_PLACES = 7
"""Of a dim whose scales are looked for: there are 3ⁿ ways to mark n places, and a stream of many has no scales."""

STEP = 1e-4
"""Of a logarithm, to either side."""

CANCELS = 1e-3
"""Share of the largest derivative below which a sum of them is tried for nothing; kinks of ReLU leave some."""

_MARKS = {1: "", -1: "/", 0: "|"}


def with_acting(judge: Judge, plain: Candidate, seed: int) -> Candidate:
    """A candidate with the signs, scales and maps that the network was found to have."""
    wide = {axis: unfolded(expression) for axis, expression in plain.wiring.expressions.items()}
    wiring = plain.wiring.with_axes(wide)
    made = replace(plain, wiring=wiring, draft=replace(plain.draft, wiring=wiring))
    places = places_of(made)
    shown = {made.draft.spelled(dim): dim for dim in places}
    few = {dim: found for dim, found in places.items() if len(found) <= MOST_PLACES}
    marks: dict[Place, str] = {}
    for dim, way in _cancelling(judge, made, few, seed).items():
        marks |= {place: _MARKS[power] for place, power in zip(places[dim], way, strict=True) if power != 1}
        few[dim] = []
    wanted = {dim for dim, found in few.items() if not found}
    scaled = _kept(judge, replace(made.draft, marks=marks, scales=frozenset(wanted)), "scales", shown, seed)
    marks = {place: mark for place, mark in marks.items() if _dim_at(made, place) in scaled}
    draft = replace(made.draft, marks=marks, scales=scaled)
    mapped = _kept(judge, replace(draft, rotations=scaled), "rotations", shown, seed)
    signed = _kept(judge, replace(draft, signs=frozenset(places)), "signs", shown, seed)
    rest = {dim: found for dim, found in places.items() if dim not in scaled | signed}
    gains = {place: "|" for found in rest.values() for place in found if _is_gain(made, place)}
    if gains:
        more = frozenset(_dim_at(made, place) for place in gains)
        more = _kept(judge, replace(draft, marks=marks | gains, signs=more), "signs", shown, seed)
        marks |= {place: mark for place, mark in gains.items() if _dim_at(made, place) in more}
        signed |= more
    if not scaled | signed:
        return plain
    wiring = plain.wiring.with_axes({(name, axis): wide[name, axis] for name, axis, _ in marks})
    return written(judge, replace(draft, wiring=wiring, marks=marks, signs=signed, rotations=mapped))


def places_of(made: Candidate) -> dict[int, list[Place]]:
    """Where each dim stands that may have signs or scales: it moves, has no dims within it, and acts on no keys."""
    wiring = made.wiring
    barred = {*wiring.owners.values(), *wiring.indices, *wiring.fixed}
    found: dict[int, list[Place]] = {}
    for (name, axis), expression in wiring.expressions.items():
        for at, dim in enumerate(moves_in(expression)):
            if dim not in barred:
                found.setdefault(dim, []).append((name, axis, at))
    moving = set(made.layout.moving())
    return {
        dim: sorted(places)
        for dim, places in found.items()
        if made.draft.spelled(dim) in moving and any(name not in made.draft.buffers for name, *_ in places)
    }


def _dim_at(made: Candidate, place: Place) -> int:
    name, axis, at = place
    return moves_in(made.wiring.expressions[name, axis])[at]


def _is_gain(made: Candidate, place: Place) -> bool:
    """Whether it is a vector that multiplies, by its name."""
    return len(made.wiring.shapes[place[0]]) == 1 and place[0].rpartition(".")[2] == "weight"


def _cancelling(
    judge: Judge, made: Candidate, places: Mapping[int, Sequence[Place]], seed: int
) -> dict[int, tuple[int, ...]]:
    """For each dim the powers of its places, beside those that a pattern without marks gives them, whose derivatives
    cancel: with the fewest that are barred, and then divided."""
    columns = _derivatives(judge, made, places, seed)
    found = {}
    for dim, known in columns.items():
        sizes = [0.0 if column is None else float(column.norm()) for column in known]
        live = [at for at, size in enumerate(sizes) if size > 1e-9 * max(sizes)]
        if len(live) < 2:
            continue
        matrix = torch.stack([column for at in live if (column := known[at]) is not None])  # (places, outputs)
        ways = sorted(product((1, -1, 0), repeat=len(live)), key=lambda way: (way.count(0), way.count(-1)))
        for way in ways:
            if len(live) - way.count(0) < 2:
                break
            powers = torch.tensor(way, dtype=matrix.dtype)
            largest = float((powers[:, None] * matrix).norm(dim=1).max())
            if float((powers @ matrix).norm()) <= CANCELS * largest:
                by_place = {places[dim][at]: power for at, power in zip(live, way, strict=True)}
                found[dim] = tuple(by_place.get(place, _beside(place, by_place)) for place in places[dim])
                break
    return found


def _beside(place: Place, known: Mapping[Place, int]) -> int:
    """The power of what the outputs do not depend on, such as a bias of keys: that of its layer's weight."""
    name, _, at = place
    same = {other: power for other, power in known.items() if other[0].rpartition(".")[0] == name.rpartition(".")[0]}
    return next((power for other, power in same.items() if other[2] == at), next(iter(same.values()), 1))


def _derivatives(
    judge: Judge, made: Candidate, places: Mapping[int, Sequence[Place]], seed: int
) -> dict[int, list[Tensor | None]]:
    """Of the outputs, flat, by the logarithm of the scales of each place of each dim, weighed at random over units."""
    columns: dict[int, list[Tensor | None]] = {dim: [None] * len(found) for dim, found in places.items()}
    generator, weights = torch.Generator().manual_seed(seed), dict[int, Tensor]()
    for number in range(max(map(len, places.values()), default=0)):
        alone = {
            dim: found
            for dim, found in places.items()
            if number < len(found) and found[number][0] not in made.draft.buffers
        }
        marks = {p: "|" for found in alone.values() for at, p in enumerate(found) if at != number}
        layout = _bound(judge, replace(made.draft, marks=marks, scales=frozenset(alone)), "scales")
        for dim in alone:
            name = made.draft.spelled(dim)
            if name not in layout.scaled():
                continue
            if dim not in weights:
                weights[dim] = torch.randn(_shape(layout, name), generator=generator, dtype=torch.float64)
            ends = [
                _outputs(judge, Permutation({}, {name: (sign * STEP * weights[dim]).exp()}), layout) for sign in (1, -1)
            ]
            columns[dim][number] = (ends[0] - ends[1]) / (2 * STEP)
    return columns


def _kept(judge: Judge, draft: Draft, kind: Kind, shown: Mapping[str, int], seed: int) -> frozenset[int]:
    """The dims of a draft whose signs, scales, or maps, alone leave the real outputs as they are."""
    if not (draft.signs or draft.scales):
        return frozenset()
    layout, found = _bound(judge, draft, kind), set()
    drawn, still = Permutation.random(layout, seed), Permutation.identity(layout)
    for name in {"signs": layout.signed(), "scales": layout.scaled(), "rotations": layout.rotated()}[kind]:
        turned = torch.arange(prod(still[name].shape)).reshape(still[name].shape) % 2 == 0
        element = (
            Permutation({name: with_turns(still[name], turned)})
            if kind == "signs"
            else replace(drawn.only([name]), indices={})
        )
        if judge.change(dict(permuted(element, layout, judge.state))) <= TOLERANCE:
            found.add(shown[name])
    return frozenset(found)


def _bound(judge: Judge, draft: Draft, kind: Kind) -> Layout:
    wanted = Request(signs=kind == "signs", scales=kind == "scales", rotations=kind == "rotations")
    return bind(spec_of(draft), judge.shapes, wanted)


def _shape(layout: Layout, name: str) -> tuple[int, ...]:
    return (*layout.owner_sizes(name), layout.dims[name].size)


def _outputs(judge: Judge, element: Permutation, layout: Layout) -> Tensor:
    return flat_outputs(judge.run(dict(permuted(element, layout, judge.state)), None))


def flat_outputs(outputs: Mapping[str, Tensor]) -> Tensor:
    """All of them, one after the other, as float64."""
    real = (torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in outputs.values())
    return torch.cat([tensor.double().flatten() for tensor in real])
