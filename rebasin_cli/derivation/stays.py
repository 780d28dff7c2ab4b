"""Why an axis stays: what the real network says when two of its units are exchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from rebasin_cli.derivation.candidate import TOLERANCE, Judge
from rebasin_cli.derivation.colouring import AxisOf
from rebasin_cli.derivation.expressions import Chain, Expression, Nest, Still, moves_in, size_of
from rebasin_cli.derivation.naming import template_of, words_of
from rebasin_cli.derivation.soundness import exact_gradients
from rebasin_cli.derivation.wiring import Wiring
from rebasin_cli.evaluation.comparing import change
from rebasin_cli.evaluation.inputs import each, leaves

_MOST_RUNS = 200
_GENERAL = {
    "kernels": "the places of a kernel are not interchangeable",
    "embeddings": "rows are named: tokens, positions",
}


@dataclass(frozen=True, slots=True)
class Stays:
    """What stays, and why.

    Attributes:
        comments: tensor → why an axis of it stays; lines: (what, why) for the whole network.
        ignored: keys of tensors that the outputs do not depend on.
    """

    comments: Mapping[str, str] = field(default_factory=dict)
    lines: Sequence[tuple[str, str]] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)


def what_stays(judge: Judge, wiring: Wiring, unread: Sequence[str]) -> Stays:
    """Try the real network once for every kind of axis that stays."""
    comments: dict[str, list[str]] = {}
    kinds: dict[tuple[str, int], str] = {}
    general: dict[str, str] = {}
    exact = exact_gradients(judge)
    for axis in _still_axes(wiring):
        name, at = axis
        real = (name.replace(".{e}.", ".0."), at)
        if real[0] in unread or _with_its_weight(wiring, axis):
            continue
        kind = (template_of(name) if words_of(name.rpartition(".")[0]) else name, at)
        if kind not in kinds:
            if len(kinds) >= _MOST_RUNS:
                break
            kinds[kind] = _reason(judge, exact, wiring, real)
        if kinds[kind] in _GENERAL:
            general[kinds[kind]] = _GENERAL[kinds[kind]]
        elif kinds[kind]:
            where = f"axis {at}: " if len(wiring.shapes[name]) > 1 else ""
            comments.setdefault(name, []).append(where + kinds[kind])
    ignored = {
        key: "the outputs do not depend on it"
        for name in unread
        if not any(moves_in(wiring.expressions[name, at]) for at in range(len(wiring.shapes.get(name, ()))))
        for key in judge.network.keys[name]
    }
    return Stays({name: "; ".join(why) for name, why in comments.items()}, tuple(general.items()), ignored)


def _still_axes(wiring: Wiring) -> Iterator[AxisOf]:
    """The axes of which a part stays that has more than one unit, gates of a product aside."""
    for axis, expression in wiring.expressions.items():
        parts = expression.parts if isinstance(expression, Chain) else (expression,)
        lasts = [part.factors[-1] if isinstance(part, Nest) else part for part in parts]
        if any(isinstance(part, Still) and part.size > 1 for part in lasts):
            yield axis


def _with_its_weight(wiring: Wiring, axis: AxisOf) -> bool:
    """Whether it is a vector beside a weight of which the same is said."""
    stem = axis[0].rpartition(".")[0]
    return len(wiring.shapes[axis[0]]) == 1 and any(
        expression == wiring.expressions[axis] and len(wiring.shapes[name]) > 1 and name.rpartition(".")[0] == stem
        for (name, _), expression in wiring.expressions.items()
    )


def _reason(judge: Judge, exact: Mapping[str, Tensor], wiring: Wiring, axis: AxisOf) -> str:
    """What exchanging two units of one axis does; empty where it does nothing, or nothing tells."""
    name, at = axis
    stem = name.rpartition(".")[0]
    module = dict(judge.network.module.named_modules()).get(stem)
    if isinstance(module, nn.modules.conv._ConvNd) and at >= 2:
        return "kernels"
    tensor = judge.state[name]
    units = _two_units(judge, exact[name], wiring, axis)
    if units is None:
        return ""
    moved = {
        (name, at),
        *((n, 0) for n, s in wiring.shapes.items() if s == (tensor.shape[at],) and n.rpartition(".")[0] == stem),
    }
    swapped = dict(judge.state)
    for other, place in moved:
        swapped |= dict.fromkeys(judge.network.keys[other], _exchanged(judge.state[other], place, units))
    outputs = judge.run(swapped, None)
    changed = change(judge.reference, outputs)
    if changed <= TOLERANCE:
        return ""
    if isinstance(module, nn.Embedding) and at == 0:
        return "embeddings"
    if any(_same_but_exchanged(judge.reference[n], outputs[n], tensor.shape[at], units) for n in outputs):
        return "outputs"
    if at > 0 and _reads_inputs(judge, swapped, tensor.shape[at], units):
        return "inputs"
    return f"exchanging {units[0]} and {units[1]} changes the outputs by {changed:.1g}"


def _two_units(judge: Judge, gradient: Tensor, wiring: Wiring, axis: AxisOf) -> tuple[int, int] | None:
    """The two units that stay and that the outputs depend on most; None where they depend on none."""
    name, at = axis
    general = (name, at) if (name, at) in wiring.expressions else None
    places = _still_places(wiring.expressions[general]) if general else [list(range(judge.state[name].shape[at]))]
    if not places or len(places[0]) < 2:
        return None
    over = [other for other in range(gradient.dim()) if other != at]
    told = gradient.abs().sum(over) if over else gradient.abs()
    run = max(places, key=lambda run: float(told[run].topk(2).values[1]))
    values, most = told[run].topk(2)
    first, second = sorted(run[i] for i in most.tolist())
    return (first, second) if bool(values.all()) else None


def _still_places(expression: Expression) -> list[list[int]]:
    """The places of the longest part that stays; of a product that ends in such a part, those of all its runs."""
    parts = expression.parts if isinstance(expression, Chain) else (expression,)
    start, longest, best = 0, 1, []
    for part in parts:
        last = part.factors[-1] if isinstance(part, Nest) else part
        if isinstance(last, Still) and last.size > longest:
            longest, ends = last.size, range(start, start + size_of(part), last.size)
            best = [list(range(at, at + last.size)) for at in ends]
        start += size_of(part)
    return best


def _exchanged(tensor: Tensor, at: int, units: tuple[int, int]) -> Tensor:
    order = torch.arange(tensor.shape[at])
    order[list(units)] = order[list(reversed(units))]
    return tensor.index_select(at, order)


def _same_but_exchanged(reference: Tensor, output: Tensor, length: int, units: tuple[int, int]) -> bool:
    return any(
        n == length and change({"": reference}, {"": _exchanged(output, at, units)}) <= TOLERANCE
        for at, n in enumerate(reference.shape)
        if at > 0
    )


def _reads_inputs(judge: Judge, swapped: Mapping[str, Tensor], length: int, units: tuple[int, int]) -> bool:
    """Whether exchanging the inputs in the same way makes up for it."""
    network = judge.network
    before = network.inputs
    rank = max((tensor.dim() for tensor in leaves(before).values()), default=0)

    def exchanged(at: int, _: str, x: Tensor) -> Tensor:
        return _exchanged(x, at, units) if x.dim() > at and x.shape[at] == length else x

    try:
        for at in range(1, rank):
            network.inputs = each(partial(exchanged, at), before)
            if judge.change(swapped) <= TOLERANCE:
                return True
    finally:
        network.inputs = before
    return False
