"""Frank-Wolfe on the table of tiny networks: what it says of a mixture is so, and it is never below descent."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rebasin_cli.matching.descent.weights import joint_dims
from rebasin_cli.matching.frank_wolfe import _Mixture, frank_wolfe_attempts, match_by_frank_wolfe
from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.options import FrankWolfeOptions, RelaxedStart
from rebasin_cli.matching.portfolio import best_of, descents
from rebasin_cli.matching.problem import Problem
from rebasin_cli.matching.resources import Budget
from rebasin_cli.matching.similarity.blocks import Block
from rebasin_cli.matching.similarity.matrices import Similarities
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import bind, load_spec
from tests.networks import TINY, tiny_layout, tiny_state

STARTS: tuple[RelaxedStart, ...] = ("barycentre", "identity")


@pytest.fixture(params=list(TINY))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("start", STARTS)
def test_the_objective_rises_and_is_what_it_says(name: str, start: RelaxedStart, tmp_path: Path) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    result = match_by_frank_wolfe(Problem(layout, a, b), options=FrankWolfeOptions(start=start))
    assert all(after >= before for before, after in itertools.pairwise(result.objective))
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-10)
    assert result.objective[-1] > inner_product(layout, a, b, Permutation.identity(layout))
    assert result.stop == "converged"
    assert {dim: perm.shape for dim, perm in result.permutation.items()} == {
        dim: perm.shape for dim, perm in Permutation.identity(layout).items()
    }
    for key in a:
        assert torch.equal(a[key], tiny_state(name, 1)[key])
        assert torch.equal(b[key], tiny_state(name, 2)[key])


def _dense_value(name: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor], x: Mapping[str, Tensor]) -> float:
    """⟨A, X(B)⟩ with doubly stochastic matrices multiplied out, for two networks by hand."""
    if name == "chain":
        one, two = x["h.0"], x["h.2"]
        moved = {
            "0.weight": one @ b["0.weight"], "0.bias": one @ b["0.bias"],
            "2.weight": two @ b["2.weight"] @ one.T, "2.bias": two @ b["2.bias"],
            "4.weight": b["4.weight"] @ two.T, "4.bias": b["4.bias"],
        }  # fmt: skip
    else:
        four = torch.block_diag(*[x["h"]] * 4)
        moved = {
            "ih": four @ b["ih"], "hh": four @ b["hh"] @ x["h"].T, "bias": four @ b["bias"], "out": b["out"] @ x["h"].T,
        }  # fmt: skip
    return sum(float((a[key] * moved[key]).sum()) for key in a)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("network", ["chain", "recurrent"])
def test_every_step_is_exact(network: str, start: RelaxedStart, tmp_path: Path) -> None:
    """Value, gradient and step of each iteration, against matrices multiplied out and a search along the segment."""
    layout, a, b = tiny_layout(network, tmp_path), tiny_state(network, 3), tiny_state(network, 4)
    free = {dim: Block(dim, (dim,)) for dim in joint_dims(layout)}
    similarities = Similarities(Problem(layout, a, b), torch.float64, torch.device("cpu"), Budget(1 << 20))
    state = _Mixture(free, similarities, Permutation.identity(layout))
    state.begin(start)
    steps = 0
    while steps < 12:
        before = {dim: state._matrix(dim) for dim in free} if state.vertices else {
            dim: torch.full((layout.dims[dim].size,) * 2, 1 / layout.dims[dim].size, dtype=torch.float64)
            for dim in free
        }  # fmt: skip
        for dim in free:
            probe = {d: m.clone().requires_grad_() for d, m in before.items()}
            (slope,) = torch.autograd.grad(_value_of(network, a, b, probe), probe[dim])
            assert torch.allclose(slope, state.gradients[dim], atol=1e-9)
        if not state.step():
            break
        steps += 1
        after = {dim: state._matrix(dim) for dim in free}
        assert state.value == pytest.approx(_dense_value(network, a, b, after), rel=1e-9)
        vertex = state.vertices[-1]
        eye = {dim: torch.eye(layout.dims[dim].size, dtype=torch.float64)[vertex[dim]] for dim in free}
        along = [
            _dense_value(network, a, b, {d: (1 - t) * before[d] + t * eye[d] for d in free})
            for t in torch.linspace(0, 1, 21).tolist()
        ]
        assert state.value >= max(along) - 1e-9
        for dim in free:
            assert torch.allclose(after[dim].sum(0), torch.ones(1, dtype=torch.float64))
            assert torch.allclose(after[dim].sum(1), torch.ones(1, dtype=torch.float64))
    assert steps >= 2


def _value_of(name: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor], x: Mapping[str, Tensor]) -> Tensor:
    one = x["h.0"] if name == "chain" else x["h"]
    if name == "chain":
        two = x["h.2"]
        parts = [
            (a["0.weight"] * (one @ b["0.weight"])).sum(), (a["0.bias"] * (one @ b["0.bias"])).sum(),
            (a["2.weight"] * (two @ b["2.weight"] @ one.T)).sum(), (a["2.bias"] * (two @ b["2.bias"])).sum(),
            (a["4.weight"] * (b["4.weight"] @ two.T)).sum(),
        ]  # fmt: skip
    else:
        four = torch.block_diag(*[one] * 4)
        parts = [
            (a["ih"] * (four @ b["ih"])).sum(), (a["hh"] * (four @ b["hh"] @ one.T)).sum(),
            (a["bias"] * (four @ b["bias"])).sum(), (a["out"] * (b["out"] @ one.T)).sum(),
        ]  # fmt: skip
    return torch.stack(parts).sum()


def test_the_mix_is_never_below_descent(name: str, tmp_path: Path) -> None:
    layout = tiny_layout(name, tmp_path)
    gains = []
    for seed in range(6):
        a, b = tiny_state(name, seed), tiny_state(name, seed + 50)
        one = best_of(descents(Problem(layout, a, b), 1)).objective[-1]
        mix = best_of([*descents(Problem(layout, a, b), 1), *frank_wolfe_attempts(Problem(layout, a, b))]).objective[-1]
        gains.append(mix - one)
    assert min(gains) >= 0


def test_it_finds_more_than_descent_somewhere(tmp_path: Path) -> None:
    layout = tiny_layout("residual", tmp_path)
    pairs = [(tiny_state("residual", seed), tiny_state("residual", seed + 50)) for seed in range(12)]
    descent = [best_of(descents(Problem(layout, a, b), 1)).objective[-1] for a, b in pairs]
    found = [best_of(frank_wolfe_attempts(Problem(layout, a, b))).objective[-1] for a, b in pairs]
    assert sum(found) > sum(descent)


def test_a_planted_permutation_is_found(name: str, tmp_path: Path) -> None:
    layout, a = tiny_layout(name, tmp_path), tiny_state(name, 1)
    planted = Permutation.random(layout, 7)
    b = dict(permuted(planted, layout, a))
    attempts = [*descents(Problem(layout, a, b), 6), *frank_wolfe_attempts(Problem(layout, a, b))]
    assert best_of(attempts).permutation.equals(planted.inverse(layout))


def test_of_three_dims_on_one_tensor_the_smallest_is_held(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("tensors:\n  t: x y z\n  a: x _\n  b: y _\n  c: z _\n")
    shapes = {"t": (4, 5, 6), "a": (4, 3), "b": (5, 3), "c": (6, 3)}
    layout = bind(load_spec(path), shapes)
    assert joint_dims(layout) == ("y", "z")
    generator = torch.Generator().manual_seed(0)
    a, b = ({k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in shapes.items()} for _ in "ab")
    result = match_by_frank_wolfe(Problem(layout, a, b))
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-10)
