"""Units stay where nothing is gained by moving them, whatever method has moved them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rebasin_cli.matching.descent.settling import TIE, is_tie, settled
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.objective import inner_product, measure_distance
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.portfolio import simplest
from rebasin_cli.matching.problem import MatchResult, Problem, Resources
from rebasin_cli.merging.many import match_many
from rebasin_cli.merging.models import Models
from rebasin_cli.merging.options import ManyOptions
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline.method_choice import MatchChoice
from rebasin_cli.pipeline.methods import Running, match_by_search
from rebasin_cli.spec import bind, load_spec
from tests.matching.test_properties import BY_WEIGHTS
from tests.networks import TINY, tiny_layout, tiny_state

State = Mapping[str, Tensor]
RUNNING = Running("cpu", lambda: None, lambda *_: None)


@pytest.fixture(params=list(TINY))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stays(permutation: Permutation) -> bool:
    return permutation.count_moved() == 0


@pytest.mark.parametrize("of", ["constant", "zero A", "zero B"])
def test_where_nothing_is_told_apart_all_stay(name: str, of: str, tmp_path: Path) -> None:
    layout, state = tiny_layout(name, tmp_path), tiny_state(name, 1)
    zero = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    half = {key: torch.full_like(tensor, 0.5) for key, tensor in state.items()}
    a, b = {"constant": (half, half), "zero A": (zero, state), "zero B": (state, zero)}[of]
    assert stays(settled(Problem(layout, a, b), Permutation.random(layout, 3), 0.0))
    assert stays(match_by_weights(Problem(layout, a, b)).permutation)


@pytest.mark.parametrize("method", list(BY_WEIGHTS))
def test_a_network_and_itself(name: str, method: str, tmp_path: Path) -> None:
    layout, a = tiny_layout(name, tmp_path), tiny_state(name, 1)
    result = BY_WEIGHTS[method](layout, a, a, 3)
    reached = inner_product(layout, a, a, Permutation.identity(layout))
    assert stays(result.permutation) or not is_tie(result.objective[-1], reached)
    if method != "weights, as Algorithm 1":
        assert stays(result.permutation)


def with_equals(name: str, state: State) -> dict[str, Tensor]:
    """The same with some units made equal and some dead: exchanged, averaged, or set to zero, wherever they stand."""
    found = dict(state)
    for key in ("0.weight", "0.bias"):
        found[key] = found[key].clone()
        found[key][1], found[key][4], found[key][5] = found[key][0], 0, 0
    found["2.weight"] = found["2.weight"].clone()
    found["2.weight"][:, 1], found["2.weight"][:, 4], found["2.weight"][:, 5] = found["2.weight"][:, 0], 0, 0
    return found


@pytest.mark.parametrize("method", [*BY_WEIGHTS, "default"])
def test_most_units_stay_of_all_best_permutations(method: str, tmp_path: Path) -> None:
    """Against every permutation of seven units, among which two are dead in both and two are equal in B."""
    layout = tiny_layout("chain", tmp_path)
    a, b = tiny_state("chain", 1), with_equals("chain", tiny_state("chain", 2))
    for key in ("0.weight", "0.bias"):
        a[key][2], a[key][6] = 0, 0
    a["2.weight"][:, 2], a["2.weight"][:, 6] = 0, 0
    way = BY_WEIGHTS.get(method, lambda layout, a, b, _: match_by_search(Problem(layout, a, b), MatchChoice(), RUNNING))
    found = way(layout, a, b, 3).permutation
    best = inner_product(layout, a, b, found)
    moved = [
        sum(i != j for i, j in enumerate(order))
        for order in itertools.permutations(range(7))
        if inner_product(layout, a, b, found.replace({"h.0": torch.tensor(order)})) >= best - 1e-9
    ]
    assert len(moved) > 1
    assert int((found["h.0"] != torch.arange(7)).sum()) == min(moved)


def test_settling_keeps_the_objective_and_is_done_once(name: str, tmp_path: Path) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    for seed in range(4):
        start = Permutation.random(layout, seed)
        found = settled(Problem(layout, a, b), start, 1.0)
        before, after = (inner_product(layout, a, b, permutation) for permutation in (start, found))
        assert after >= before - TIE * abs(before)
        assert settled(Problem(layout, a, b), found, 1.0).equals(found)


def test_units_that_gain_do_not_go_home(name: str, tmp_path: Path) -> None:
    layout, a = tiny_layout(name, tmp_path), tiny_state(name, 1)
    planted = Permutation.random(layout, 5)
    b = dict(permuted(planted.inverse(layout), layout, a))
    assert settled(Problem(layout, a, b), planted, 1.0).equals(planted)


HEADS = """
sizes:
  width: [2]
dims:
  q: within head
tensors:
  q: (head q) _
  k: (head q) _
  o: _ (head _:width)
"""


def test_equal_heads_stay_and_so_do_their_insides(tmp_path: Path) -> None:
    """Heads 0 and 2 are equal in B, and so are 1 and 3 in A."""
    (tmp_path / "heads.yaml").write_text(HEADS)
    shapes = {"q": (12, 5), "k": (12, 5), "o": (6, 8)}
    layout = bind(load_spec(tmp_path / "heads.yaml"), shapes)
    generator = torch.Generator().manual_seed(0)
    a, b = ({k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in shapes.items()} for _ in "ab")
    for state, one, two in ((a, 1, 3), (b, 0, 2)):
        for key, axis in (("q", 0), ("k", 0), ("o", 1)):
            view = state[key].unflatten(axis, (4, -1)).movedim(axis, 0)
            view[two] = view[one]
    found = match_by_weights(Problem(layout, a, b)).permutation
    best = inner_product(layout, a, b, found)
    equal = 0
    for order in itertools.permutations(range(4)):
        trial = Permutation({"head": torch.tensor(order), "q": found["q"]})
        trial = match_by_weights(Problem(layout, a, b), options=WeightsOptions(start=trial, max_sweeps=0)).permutation
        equal += inner_product(layout, a, b, trial) >= best - 1e-9
        if inner_product(layout, a, b, trial) >= best - 1e-9:
            assert found.count_moved() <= trial.count_moved()
    assert equal >= 1


def test_rounding_does_not_choose_between_attempts(tmp_path: Path) -> None:
    layout, a, b = tiny_layout("chain", tmp_path), tiny_state("chain", 1), tiny_state("chain", 2)
    b["4.weight"].zero_()  # what the last hidden units are read by says nothing, and
    for key in ("2.weight", "2.bias"):
        b[key].zero_()  # neither does what makes them

    def ended(permutation: Permutation, more: float) -> MatchResult:
        reached = inner_product(layout, a, b, permutation)
        return MatchResult("weights", permutation, (0.0, reached + more), "converged", 0, {}, 0)

    one = match_by_weights(Problem(layout, a, b)).permutation
    two = one.replace({"h.2": torch.arange(6).flip(0)})
    worse = one.replace({"h.0": one["h.0"].roll(1)})
    results = [ended(two, 1e-12), ended(one, 0.0), ended(one, 0.0), ended(worse, 0.0)]
    assert simplest(results) == 1
    assert simplest([ended(worse, 0.0), ended(two, 0.0)]) == 1


def test_models_of_a_merge_stay_where_they_can(name: str, tmp_path: Path) -> None:
    layout, a = tiny_layout(name, tmp_path), tiny_state(name, 1)
    zero = {key: torch.zeros_like(tensor) for key, tensor in a.items()}

    def match(problem: Problem, resources: Resources) -> MatchResult:
        result = match_by_weights(problem, resources)
        return MatchResult("weights", Permutation.random(layout, 2), result.objective, "converged", 0, {}, 0)

    found = match_many(Models.of(layout, [a, zero, zero]), match, options=ManyOptions(algorithm="to-first"))
    assert all(map(stays, found.permutations))


def test_what_two_dims_gain_together_is_shared(tmp_path: Path) -> None:
    """Where B's first layer is the mirror of A's and nothing else is known, one matrix says it all to both its dims."""
    (tmp_path / "pair.yaml").write_text("tensors:\n  w: one two\n")
    layout = bind(load_spec(tmp_path / "pair.yaml"), {"w": (5, 6)})
    a = {"w": tiny_state("chain", 1)["2.weight"][:5, :6].contiguous()}
    b = {"w": a["w"].flip(0, 1).contiguous()}
    both = Permutation({"one": torch.arange(5).flip(0), "two": torch.arange(6).flip(0)})
    gains = measure_distance(layout, a, b, both).gains
    alone = [
        inner_product(layout, a, b, Permutation({dim: both[dim]})) - inner_product(layout, a, b, Permutation({}))
        for dim in ("one", "two")
    ]
    together = sum(gains.values()) - sum(alone)
    assert gains["one"] == pytest.approx(alone[0] + together / 2)
    assert gains["two"] == pytest.approx(alone[1] + together / 2)
