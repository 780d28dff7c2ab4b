"""Rotations of a derived spec's streams: the norms on them, found by running the network and proved as the group.

What scales a norm's gains and bias does to the outputs, what reads the norm undoes. So the derivatives of the outputs
by the scales of all tensors on a stream tell which of them read which norm: those whose sum is the norm's own. A random
orthogonal map of the units, with other gains, is then tried on the network, and if it fails one that keeps ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rebasin_cli.derivation.acting import STEP, flat_outputs, places_of
from rebasin_cli.derivation.candidate import TOLERANCE, Candidate, Judge, written
from rebasin_cli.derivation.expressions import Moving
from rebasin_cli.derivation.writing import Place
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.binder import Request
from rebasin_cli.spec.language.template import Template

MOST_PLACES = 200
"""Of a stream, each of which takes two runs of the network."""

EQUATIONS = 3
"""For each tensor of which it is asked whether it reads a norm, at the least."""

EXACT = 1e-3
"""By how much a sum of derivatives, or a part of it, may miss what it should be."""


def with_streams(judge: Judge, made: Candidate, seed: int) -> Candidate:
    """A candidate with rotations of the streams that the network was found to keep."""
    for dim, places in places_of(made).items():
        if dim in made.draft.rotations or not _is_stream(made, dim, places):
            continue
        norms = _norms(judge, made, places, seed)
        for centred in (frozenset[int](), frozenset({dim})) if norms else ():
            draft = replace(
                made.draft, rotations=made.draft.rotations | {dim}, centred=made.draft.centred | centred,
                norms={**made.draft.norms, **norms},
            )  # fmt: skip
            rotated = written(judge, draft)
            layout = bind(rotated.spec, judge.shapes, Request(rotations=True))
            drawn = replace(Permutation.random(layout, seed).only([draft.spelled(dim)]), indices={})
            if drawn.maps and judge.change(dict(permuted(drawn, layout, judge.state))) <= TOLERANCE:
                made = rotated
                break
    return made


def _is_stream(made: Candidate, dim: int, places: Sequence[Place]) -> bool:
    """Whether it is the whole of an axis wherever it stands, of tensors that are each their own."""
    names = [name for name, *_ in places]
    alone = all(isinstance(made.wiring.expressions[name, axis], Moving) for name, axis, _ in places)
    own = all(len(made.draft.keys.get(name, ())) == 1 and name not in made.draft.buffers for name in names)
    free = dim not in made.wiring.owners and len(set(names)) == len(names) <= MOST_PLACES
    return alone and own and free


def _norms(judge: Judge, made: Candidate, places: Sequence[Place], seed: int) -> dict[str, str]:
    """Each norm's gains, as a line of the spec has them, with its bias and its readers; nothing if one is not told."""
    axes = {name: axis for name, axis, _ in places}
    vectors = [name for name in axes if len(made.wiring.shapes[name]) == 1]
    matrices = [name for name in axes if name not in vectors]
    gains = [name for name in vectors if name.rpartition(".")[2] == "weight"]
    if not gains or not matrices:
        return {}
    size = judge.state[gains[0]].shape[0]
    draws = 1 + EQUATIONS * len(matrices) // len(flat_outputs(judge.reference))
    weights = torch.randn(draws, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def derivative(names: Sequence[str]) -> Tensor:
        changes = []
        for scales in (STEP * weights).exp():
            ends = []
            for by in (scales, 1 / scales):
                scaled = {name: _scaled(judge.state[name], axes[name], by) for name in names}
                ends.append(flat_outputs(judge.run({**judge.state, **scaled}, None)))
            changes.append((ends[0] - ends[1]) / (2 * STEP))
        return torch.cat(changes)

    columns = torch.stack([derivative([name]) for name in matrices], 1)  # (draws · outputs, matrices)
    users: dict[str, list[str]] = {}
    for gain in gains:
        bias = [name for name in vectors if name == f"{gain.removesuffix('weight')}bias"]
        own = derivative([gain, *bias])
        parts = torch.linalg.lstsq(columns, own[:, None], driver="gelsd").solution[:, 0]
        reading = [name for name, part in zip(matrices, parts.tolist(), strict=True) if abs(part - 1) < EXACT]
        left = own - sum((columns[:, matrices.index(name)] for name in reading), torch.zeros_like(own))
        if not reading or not float(left.norm()) <= EXACT * float(own.norm()):
            return {}
        users[gain] = [*bias, *reading]
    return _folded(made, users)


def _scaled(tensor: Tensor, axis: int, by: Tensor) -> Tensor:
    return tensor * by.reshape([-1 if at == axis else 1 for at in range(tensor.dim())])


def _folded(made: Candidate, users: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The same in templates, as the lines of the spec have them, so that it holds for every number of layers; nothing
    where lines do not say it."""
    found: dict[str, set[str]] = {}
    for gain, names in users.items():
        line = _line(made, gain)
        bindings = line.match(gain)
        own = [_line(made, name) for name in names]
        told = all(line.variables <= each.variables for each in own)
        if bindings is None or not told or [each.key(bindings) for each in own] != list(names):
            return {}
        found.setdefault(line.text.rstrip("?"), set()).add(" ".join(each.text.rstrip("?") for each in own))
    return {gain: min(texts) for gain, texts in found.items()} if all(len(t) == 1 for t in found.values()) else {}


def _line(made: Candidate, name: str) -> Template:
    lines = [line.template for line in made.spec.lines if line.template.match(name) is not None]
    return min(lines, key=lambda template: template.rank)
