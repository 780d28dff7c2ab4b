"""The anchored first pass: who is solved when, by which pieces, and what it is good for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rebasin_cli.matching.descent.sweep import Turn, anchored_turns
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.problem import Problem
from rebasin_cli.matching.similarity.blocks import blocks, neighbours_of
from rebasin_cli.matching.similarity.contributions import permutes_keys, plans_of
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline.method_choice import match_choice
from rebasin_cli.pipeline.methods import Running, match_by_search
from rebasin_cli.spec import Layout, bind, find_spec, load_spec
from tests.benchmarks.cases import CASES
from tests.networks import TINY, tiny_layout, tiny_state

STREAM = """
tensors:
  in: s _
  b{i}.up: m.{i} s
  b{i}.down: s m.{i}
  out: _ s
"""


def turns_of(layout: Layout) -> list[Turn]:
    moving = frozenset(layout.moving())
    found = blocks(layout)
    plans = {b.root: plans_of(layout, b, moving) for b in found if not permutes_keys(layout, b)}
    around = neighbours_of(layout, found)
    return anchored_turns(layout, {block: around[block.root] for block in found}, plans)


def stream(tmp_path: Path, inputs: int) -> Layout:
    path = tmp_path / "stream.yaml"
    path.write_text(STREAM)
    shapes = {"in": (8, inputs), "out": (5, 8)}
    for i in range(3):
        shapes |= {f"b{i}.up": (9, 8), f"b{i}.down": (8, 9)}
    return bind(load_spec(path), shapes)


def told(turns: list[Turn]) -> list[tuple[str, set[str]]]:
    return [(turn.block.root, {plan.bound.key for plan in turn.ready or ()}) for turn in turns]


def test_blocks_are_solved_outwards_by_what_is_aligned(tmp_path: Path) -> None:
    turns = turns_of(stream(tmp_path, inputs=5))
    assert told(turns) == [
        ("s", {"in", "out"}),
        ("m.0", {"b0.up", "b0.down"}),
        ("m.1", {"b1.up", "b1.down"}),
        ("m.2", {"b2.up", "b2.down"}),
    ]
    assert [turn.is_whole for turn in turns] == [False, True, True, True]


@pytest.mark.parametrize("name", list(TINY))
def test_no_matrix_of_a_block_goes_without_evidence(name: str, tmp_path: Path) -> None:
    layout = tiny_layout(name, tmp_path)
    turns = turns_of(layout)
    done: set[str] = set()
    for turn in turns:
        done.update(turn.block.dims)
        if turn.ready is None:
            continue
        moving = frozenset(layout.moving())
        could = {p.dims for p in plans_of(layout, turn.block, moving) if done.issuperset(p.neighbours)}
        assert {plan.dims for plan in turn.ready} == could


@pytest.mark.parametrize("name", [*TINY, "resnet20"])
def test_the_pass_knows_what_it_has_reached(name: str, tmp_path: Path) -> None:
    if name in TINY:
        layout: Layout = tiny_layout(name, tmp_path)
        a: Mapping[str, Tensor] = tiny_state(name, 1)
        b: Mapping[str, Tensor] = tiny_state(name, 2)
    else:
        layout, a, b = residual_pair(noise=2)
    result = match_by_weights(Problem(layout, a, b), options=WeightsOptions(max_sweeps=0))
    assert len(result.objective) == 2
    assert result.objective[1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-6)


def residual_pair(noise: float, seed: int = 0) -> tuple[Layout, Mapping[str, Tensor], Mapping[str, Tensor]]:
    """ResNet20 at random, and the same in the order of `Permutation.random(…, seed)`, plus `noise` times its scale."""
    shapes = CASES["resnet20"].shapes()
    layout = bind(find_spec("resnet-basic"), shapes)
    generator = torch.Generator().manual_seed(seed)

    def weights() -> dict[str, Tensor]:
        return {key: spread(shape) * torch.randn(shape, generator=generator) for key, shape in shapes.items()}

    a, more = weights(), weights()
    moved = permuted(Permutation.random(layout, seed), layout, a)
    return layout, a, {key: moved[key] + noise * more[key] for key in moved}


def spread(shape: tuple[int, ...]) -> float:
    return (2 * shape[0] / torch.Size(shape).numel()) ** 0.5 if len(shape) > 1 else 0.1


def test_what_noise_hides_is_found_by_the_default() -> None:
    """27 inputs a unit say little at three and a half times as much noise as signal. The descent finds three of ten."""
    for seed in range(5):
        layout, a, b = residual_pair(3.5, seed)
        problem = Problem(layout, a, b)
        result = match_by_search(problem, match_choice(), Running("cpu", lambda: None, lambda *_: None))
        planted = Permutation.random(layout, seed).inverse(layout)
        assert result.objective[-1] >= problem.objective(planted) * (1 - 1e-6)
