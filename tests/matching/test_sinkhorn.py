"""Sinkhorn re-basin: what it mixes, what it rounds to, and that it never ends below weight matching."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from rebasin_cli.errors import ContentError
from rebasin_cli.matching.data.held_out import midpoint
from rebasin_cli.matching.descent.weights import joint_dims, match_by_weights
from rebasin_cli.matching.doubly_stochastic import Mixer, between
from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.options import SinkhornLossOptions
from rebasin_cli.matching.portfolio import best_of, descents
from rebasin_cli.matching.problem import LossProblem, Problem, Resources, StopMatching
from rebasin_cli.matching.sinkhorn import match_by_sinkhorn, match_by_sinkhorn_loss, sinkhorn_attempts
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import bind, load_spec
from tests.matching.data.test_straight_through import problem
from tests.networks import TINY, tiny_layout, tiny_state


@pytest.mark.parametrize("name", list(TINY))
def test_at_a_permutation_mixing_is_permuting(name: str, tmp_path: Path) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    held = Permutation.random(layout, 3)
    free = joint_dims(layout)
    mixer = Mixer(layout, b, free, held, torch.device("cpu"), buffers=True)
    hard = {dim: torch.eye(layout.dims[dim].size)[perm] for dim, perm in Permutation.random(layout, 4).items()}
    matrices = {dim: hard[dim] for dim in free}
    moved = permuted(held.replace({dim: m.argmax(1) for dim, m in matrices.items()}), layout, b)
    mixed = between(a, mixer, matrices, 1.0)
    for key in b:
        torch.testing.assert_close(mixed[key], moved[key].float())
    half = between(a, mixer, matrices, 0.25)
    for key in b:
        torch.testing.assert_close(half[key], (0.75 * a[key] + 0.25 * moved[key]).float())
    assert set(mixer.soft) == {key for dim in free for key in layout.users[dim]}


def test_units_are_mixed_as_matrices_say(tmp_path: Path) -> None:
    layout, a, b = (
        tiny_layout("concatenation", tmp_path),
        tiny_state("concatenation", 1),
        tiny_state("concatenation", 2),
    )
    x = {dim: torch.rand(layout.dims[dim].size, layout.dims[dim].size) for dim in "abc"}
    mixer = Mixer(layout, b, tuple("abc"), Permutation.identity(layout), torch.device("cpu"))
    state = between(a, mixer, x, 1.0)
    one, two, three = x["a"].double(), x["b"].double(), x["c"].double()
    torch.testing.assert_close(state["x"].double(), one @ b["x"], rtol=1e-5, atol=1e-5)
    inner = torch.block_diag(one, two, one)
    torch.testing.assert_close(state["z"].double(), three @ b["z"] @ inner.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state["out"].double(), b["out"] @ torch.block_diag(three, two).T, rtol=1e-5, atol=1e-5)


def test_it_finds_more_than_descent_somewhere(tmp_path: Path) -> None:
    layout = tiny_layout("residual", tmp_path)
    pairs = [(tiny_state("residual", seed), tiny_state("residual", seed + 50)) for seed in range(12)]
    descent = [best_of(descents(Problem(layout, a, b), 1)).objective[-1] for a, b in pairs]
    found = [match_by_sinkhorn(Problem(layout, a, b)).objective[-1] for a, b in pairs]
    assert sum(found) > sum(descent)


@pytest.mark.parametrize("after", [1, 20])
def test_told_to_stop_it_returns_what_it_has(after: int, tmp_path: Path) -> None:
    layout, a, b = tiny_layout("chain", tmp_path), tiny_state("chain", 1), tiny_state("chain", 2)
    steps = 0

    def on_step(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == after:
            raise StopMatching("time")

    result = match_by_sinkhorn(Problem(layout, a, b), Resources(on_step=on_step))
    assert (steps, result.stop) == (after, "time")
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-10)


@pytest.mark.parametrize("target", ["midpoint", "random"])
def test_the_loss_held_apart_never_rises(target: Literal["midpoint", "random"]) -> None:
    better = 0
    for given in map(problem, range(5)):
        kept = {key: tensor.clone() for key, tensor in given.b.items()}
        result, again = (
            match_by_sinkhorn_loss(given, Resources(seed=3), SinkhornLossOptions(target, epochs=25, patience=25))
            for _ in range(2)
        )
        weights = match_by_weights(given)
        found, plain = (given.held_out(midpoint(given, one.permutation)) for one in (result, weights))
        assert found == min(result.losses) <= plain
        assert result.losses == again.losses
        assert result.permutation.equals(again.permutation)
        assert all(torch.equal(given.b[key], kept[key]) for key in given.b)
        better += min(result.losses) < plain
    assert better > 0


def test_where_no_dims_can_be_mixed_it_says_so(tmp_path: Path) -> None:
    layout, a, b = tiny_layout("groups", tmp_path), tiny_state("groups", 1), tiny_state("groups", 2)
    assert sinkhorn_attempts(Problem(layout, a, b)) == []
    with pytest.raises(ContentError, match="no dims can be mixed"):
        match_by_sinkhorn_loss(
            LossProblem(layout, a, b, lambda state, batch: state["first"].sum(), lambda state: 0.0, 1),
            Resources(),
            SinkhornLossOptions(objective="midpoint"),
        )


def test_buffers_are_mixed_for_the_network_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("tensors:\n  w: h _\n  out: _ h\nbuffers:\n  mean: h\nignored:\n  - count\n")
    shapes = {"w": (4, 3), "out": (2, 4), "mean": (4,), "count": ()}
    layout = bind(load_spec(path), shapes)
    a, b = ({key: torch.randn(shape) for key, shape in shapes.items() if key != "count"} for _ in "ab")
    a["count"], b["count"] = torch.tensor(3), torch.tensor(5)
    x = {"h": torch.rand(4, 4)}
    state = between(a, Mixer(layout, b, ["h"], Permutation({}), torch.device("cpu"), buffers=True), x, 0.5)
    torch.testing.assert_close(state["mean"], 0.5 * (a["mean"] + x["h"] @ b["mean"]))
    assert state["count"] is a["count"]
    assert "mean" not in Mixer(layout, b, ["h"], Permutation({}), torch.device("cpu")).soft
