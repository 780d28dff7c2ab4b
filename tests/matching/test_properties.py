"""What must always hold, for every tiny network and every method: one table.

The function is kept, inputs are untouched, the objective never falls and is what it says, a converged result stays put
when it is matched again, and the same seed gives the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rebasin_cli.matching.data.held_out import midpoint
from rebasin_cli.matching.data.straight_through import match_by_straight_through
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.frank_wolfe import match_by_frank_wolfe
from rebasin_cli.matching.objective import inner_product, measure_distance
from rebasin_cli.matching.options import FrankWolfeOptions, SinkhornLossOptions, SteOptions, WeightsOptions
from rebasin_cli.matching.portfolio import best_of, descents
from rebasin_cli.matching.problem import LossProblem, MatchResult, Problem, Resources
from rebasin_cli.matching.sinkhorn import fits, match_by_sinkhorn, match_by_sinkhorn_loss
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout
from tests.networks import TINY, tiny_forward, tiny_inputs, tiny_layout, tiny_state

State = Mapping[str, Tensor]
Method = Callable[[Layout, State, State, int], MatchResult]

BY_WEIGHTS: Mapping[str, Method] = {
    "weights": lambda layout, a, b, seed: match_by_weights(Problem(layout, a, b), Resources(seed=seed)),
    "weights, as Algorithm 1": lambda layout, a, b, seed: match_by_weights(
        Problem(layout, a, b), Resources(seed=seed), WeightsOptions(start="identity", order="random")
    ),
    "several starts": lambda layout, a, b, seed: best_of(descents(Problem(layout, a, b), 6, seed)),
    "frank-wolfe, barycentre": lambda layout, a, b, seed: match_by_frank_wolfe(
        Problem(layout, a, b), Resources(seed=seed)
    ),
    "frank-wolfe, identity": lambda layout, a, b, seed: match_by_frank_wolfe(
        Problem(layout, a, b), Resources(seed=seed), FrankWolfeOptions(start="identity")
    ),
    "sinkhorn": lambda layout, a, b, seed: match_by_sinkhorn(Problem(layout, a, b), Resources(seed=seed)),
}
COUPLED = ("heads", "groups")
"""Two dims within one unit stand on one tensor and are solved in turn; for pairs of units that do not lie together now,
from B's own order, so that in another order of B there may be more to find."""

BY_LOSS = ("ste", "sinkhorn midpoint", "sinkhorn random")


@pytest.fixture(params=list(TINY))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def same_function(name: str, layout: Layout, b: State, permutation: Permutation) -> bool:
    """Whether B answers as before, with its units in another order."""
    x = tiny_inputs(name)
    moved = dict(permuted(permutation, layout, b))
    assert any(not torch.equal(moved[key], b[key]) for key in b)
    return torch.allclose(tiny_forward(name, moved, x), tiny_forward(name, b, x), rtol=1e-9, atol=1e-9)


def gains_sum_up(layout: Layout, a: State, b: State, result: MatchResult) -> bool:
    """Whether what the dims are credited with is what the objective rose."""
    gains = measure_distance(layout, a, b, result.permutation).gains
    assert set(gains) == {dim for dim in layout.moving() if layout.dims[dim].owner is None}
    return sum(gains.values()) == pytest.approx(result.objective[-1] - result.objective[0], rel=1e-9)


def untouched(name: str, a: State, b: State) -> bool:
    return all(torch.equal(s[k], t) for s, seed in ((a, 1), (b, 2)) for k, t in tiny_state(name, seed).items())


def test_the_functions_tell_units_apart(name: str, tmp_path: Path) -> None:
    """Or nothing below could fail: one dim moved in one tensor alone is another function."""
    layout, b = tiny_layout(name, tmp_path), tiny_state(name, 2)
    assert same_function(name, layout, b, Permutation.random(layout, 3))
    x = tiny_inputs(name)
    moved = dict(permuted(Permutation.random(layout, 3), layout, b))
    for key in b:
        if not torch.equal(moved[key], b[key]):
            assert not torch.allclose(tiny_forward(name, {**b, key: moved[key]}, x), tiny_forward(name, b, x)), key


@pytest.mark.parametrize("method", list(BY_WEIGHTS))
def test_by_weights(name: str, method: str, tmp_path: Path) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    result, again = (BY_WEIGHTS[method](layout, a, b, 3) for _ in range(2))
    assert untouched(name, a, b)
    assert same_function(name, layout, b, result.permutation)
    assert all(after >= before for before, after in itertools.pairwise(result.objective))
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-10)
    assert result.objective[-1] > inner_product(layout, a, b, Permutation.identity(layout))
    assert result.stop == "converged"
    assert gains_sum_up(layout, a, b, result)
    stays = match_by_weights(Problem(layout, a, b), Resources(seed=5), WeightsOptions(start=result.permutation))
    assert stays.permutation.equals(result.permutation)
    if name not in COUPLED:
        on_the_moved = match_by_weights(
            Problem(layout, a, dict(permuted(result.permutation, layout, b))),
            Resources(seed=5),
            WeightsOptions(start="identity"),
        )
        assert on_the_moved.permutation.equals(Permutation.identity(layout))
    assert result.objective == again.objective
    assert {d: p.numpy().tobytes() for d, p in result.permutation.items()} == {
        d: p.numpy().tobytes() for d, p in again.permutation.items()
    }


@pytest.mark.parametrize("method", BY_LOSS)
def test_by_loss(name: str, method: str, tmp_path: Path) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    x = tiny_inputs(name)
    targets = tiny_forward(name, a, x).flatten(0, -2).argmax(-1)

    def loss(state: State, batch: int = 0) -> Tensor:
        return F.cross_entropy(tiny_forward(name, state, x.float()).flatten(0, -2), targets)

    def held_apart(state: State) -> float:
        with torch.no_grad():
            return float(loss(state))

    if method != "ste" and not fits(layout, 6):
        pytest.skip("no dims of this network can be mixed; test_sinkhorn.py has the refusal")

    def run() -> MatchResult:
        if method == "ste":
            return match_by_straight_through(
                LossProblem(layout, a, b, loss, held_apart, 2),
                Resources(seed=3),
                SteOptions(learning_rate=0.1, epochs=4),
            )
        target = "random" if method.endswith("random") else "midpoint"
        return match_by_sinkhorn_loss(
            LossProblem(layout, a, b, loss, held_apart, 2),
            Resources(seed=3),
            SinkhornLossOptions(objective=target, epochs=8),
        )

    result, again = run(), run()
    assert untouched(name, a, b)
    assert same_function(name, layout, b, result.permutation)
    judged = held_apart(midpoint(Problem(layout, a, b), result.permutation))
    assert judged == min(result.losses)
    assert judged <= held_apart(midpoint(Problem(layout, a, b), match_by_weights(Problem(layout, a, b)).permutation))
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-10)
    assert gains_sum_up(layout, a, b, result)
    assert result.losses == again.losses
    assert result.permutation.equals(again.permutation)
