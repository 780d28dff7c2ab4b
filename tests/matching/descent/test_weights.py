"""Weight matching on the table of tiny networks: the properties that must always hold, and Algorithm 1 as oracle."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.matching.assignment.solve import solve_assignments
from rebasin_cli.matching.descent.nested import Tree, solve_block
from rebasin_cli.matching.descent.weights import match_by_weights, similarity_dtype
from rebasin_cli.matching.frank_wolfe import match_by_frank_wolfe
from rebasin_cli.matching.objective import inner_product, measure_distance
from rebasin_cli.matching.options import FrankWolfeOptions, Start, WeightsOptions
from rebasin_cli.matching.problem import MatchResult, Problem, Resources
from rebasin_cli.matching.reference import weight_matching
from rebasin_cli.matching.similarity.blocks import Block, block_terms
from rebasin_cli.matching.similarity.contributions import forms_of
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout, Request, bind, find_spec, load_spec
from rebasin_cli.spec.language.loading import parse_spec
from tests.networks import TINY, tiny_layout, tiny_state
from tests.small import mlp_state

PLAIN = ("chain", "residual", "flatten", "concatenation")
"""Dims without owners that stand on each tensor once: what the paper has."""


@pytest.fixture(params=list(TINY))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def matched(name: str, folder: Path, seed: int = 0) -> tuple[Layout, dict[str, Tensor], dict[str, Tensor], MatchResult]:
    layout, a, b = tiny_layout(name, folder), tiny_state(name, 1), tiny_state(name, 2)
    return (
        layout,
        a,
        b,
        match_by_weights(Problem(layout, a, b), Resources(seed=seed), WeightsOptions(start="identity", order="random")),
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("plain", PLAIN)
def test_reaches_what_algorithm_1_reaches(plain: str, seed: int, tmp_path: Path) -> None:
    layout, a, b, result = matched(plain, tmp_path, seed)
    expected = weight_matching(layout, a, b, seed)
    assert result.permutation.equals(expected)
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, expected), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_objective_never_falls_and_is_what_it_says(name: str, seed: int, tmp_path: Path) -> None:
    layout, a, b, result = matched(name, tmp_path, seed)
    assert all(after >= before for before, after in itertools.pairwise(result.objective))
    assert result.objective[-1] > result.objective[0]
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-10)
    assert result.stop == "converged"


def test_inputs_are_untouched(name: str, tmp_path: Path) -> None:
    _, a, b, _ = matched(name, tmp_path)
    for key in a:
        assert torch.equal(a[key], tiny_state(name, 1)[key])
        assert torch.equal(b[key], tiny_state(name, 2)[key])


def test_a_converged_result_stays_put(name: str, tmp_path: Path) -> None:
    layout, a, b, result = matched(name, tmp_path)
    again = match_by_weights(
        Problem(layout, a, dict(permuted(result.permutation, layout, b))),
        Resources(seed=5),
        WeightsOptions(start="identity"),
    )
    assert again.permutation.equals(Permutation.identity(layout))


def test_same_seed_same_permutation(name: str, tmp_path: Path) -> None:
    _, _, _, one = matched(name, tmp_path, seed=3)
    _, _, _, two = matched(name, tmp_path, seed=3)
    assert one.permutation.equals(two.permutation)
    assert one.objective == two.objective


def test_a_planted_permutation_is_found(name: str, tmp_path: Path) -> None:
    """Descent from identity is local: the best of a few orders must be the planted one, to rounding."""
    layout, a = tiny_layout(name, tmp_path), tiny_state(name, 1)
    planted = Permutation.random(layout, 7)
    generator = torch.Generator().manual_seed(0)
    b = {
        k: t + 1e-3 * torch.randn(t.shape, generator=generator, dtype=t.dtype)
        for k, t in permuted(planted, layout, a).items()
    }
    target = inner_product(layout, a, b, planted.inverse(layout))
    best = max(
        (match_by_weights(Problem(layout, a, b), Resources(seed=s), WeightsOptions(order="random")) for s in range(20)),
        key=lambda r: r.objective[-1],
    )
    assert best.objective[-1] == pytest.approx(target, rel=1e-12)
    assert best.permutation.equals(planted.inverse(layout))


@pytest.mark.parametrize("block_of", ["heads", "groups", "experts"])
def test_a_block_is_solved_as_well_as_by_brute_force(block_of: str, tmp_path: Path) -> None:
    """Owners with one dim inside: every outer order times every inner order, one by one."""
    text = {
        "heads": ("tensors:\n  v: (h v) _\n  o: _ (h v)\ndims:\n  v: within h\nsizes:\n  h: [3]\n",
                  {"v": (9, 4), "o": (5, 9)}),
        "groups": ("tensors:\n  x: (g i) _\n  y: g i _\n  b: (g i)\ndims:\n  i: within g\nsizes:\n  g: [3]\n",
                   {"x": (9, 4), "y": (3, 3, 2), "b": (9,)}),
        "experts": ("tensors:\n  r: e _\n  x.{e}: m _\ndims:\n  e: index e in x.{e}\n  m: within e\n",
                    {"r": (3, 2), "x.0": (3, 4), "x.1": (3, 4), "x.2": (3, 4)}),
    }[block_of]  # fmt: skip
    path = tmp_path / "s.yaml"
    path.write_text(text[0])
    layout = bind(load_spec(path), text[1])
    generator = torch.Generator().manual_seed(4)
    a, b = ({k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in text[1].items()} for _ in "ab")
    outer = next(d for d, dim in layout.dims.items() if dim.owner is None)
    inner = next(d for d, dim in layout.dims.items() if dim.owner == outer)
    orders = [torch.tensor(p) for p in itertools.permutations(range(3))]
    best = max(
        inner_product(layout, a, b, Permutation({outer: p, inner: torch.stack(q)}))
        for p in orders
        for q in itertools.product(orders, repeat=3)
    )
    assert match_by_weights(Problem(layout, a, b)).objective[-1] == pytest.approx(best, rel=1e-12)


def test_dims_within_one_tensor_never_lower_the_block(tmp_path: Path) -> None:
    layout, a, b = tiny_layout("heads", tmp_path), tiny_state("heads", 1), tiny_state("heads", 2)
    block = Block("kv", ("kv", "q", "v"))
    for seed in range(5):
        present = Permutation.random(layout, seed)
        terms = block_terms(Problem(layout, a, b), block, present, dtype=torch.float64, device=torch.device("cpu"))
        tree = Tree(
            {"kv": ("q", "v"), "q": (), "v": ()}, frozenset(), lambda m: torch.from_numpy(solve_assignments(m).columns)
        )
        found, before, after = solve_block(tree, "kv", forms_of(terms), {d: present[d] for d in block.dims})
        assert after >= before
        keys = [key for dim in block.dims for key in layout.users[dim]]
        assert before == pytest.approx(inner_product(layout, a, b, present, keys), rel=1e-10)
        assert after == pytest.approx(inner_product(layout, a, b, present.replace(found), keys), rel=1e-10)


def test_dense_and_factored_forms_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("heads", "groups", "experts"):
        _, _, _, dense = matched(name, tmp_path)
        monkeypatch.setattr("rebasin_cli.matching.similarity.contributions.DENSE_LIMIT", 0)
        _, _, _, factored = matched(name, tmp_path)
        monkeypatch.undo()
        assert dense.permutation.equals(factored.permutation)
        assert dense.objective[-1] == pytest.approx(factored.objective[-1], rel=1e-10)


def test_frozen_dims_stay_and_their_insides_move(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(TINY["heads"].text)
    layout = bind(load_spec(path), TINY["heads"].shapes, Request(freeze=["kv", "s"]))
    result = match_by_weights(Problem(layout, tiny_state("heads", 1), tiny_state("heads", 2)))
    assert set(result.permutation) == {"q", "v"}
    assert result.objective[-1] > result.objective[0]


def test_nothing_to_move_is_said(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(TINY["heads"].text)
    layout = bind(load_spec(path), TINY["heads"].shapes, Request(freeze=["kv", "s", "q", "v"]))
    result = match_by_weights(Problem(layout, tiny_state("heads", 1), tiny_state("heads", 2)))
    assert (result.stop, len(result.objective), len(result.permutation)) == ("nothing-to-move", 1, 0)


def test_half_precision_inputs_are_matched_in_float32(tmp_path: Path) -> None:
    layout = tiny_layout("residual", tmp_path)
    a = {k: (200 * t).half() for k, t in tiny_state("residual", 1).items()}
    b = {k: (200 * t).half() for k, t in tiny_state("residual", 2).items()}
    result = match_by_weights(Problem(layout, a, b))
    exact = match_by_weights(
        Problem(layout, {k: t.double() for k, t in a.items()}, {k: t.double() for k, t in b.items()})
    )
    assert result.objective[-1] == pytest.approx(exact.objective[-1], rel=1e-6)


def test_distance_agrees_with_its_definition(tmp_path: Path) -> None:
    layout, a, b, result = matched("residual", tmp_path)
    distance = measure_distance(layout, a, b, result.permutation)
    moved = dict(permuted(result.permutation, layout, b))

    def flat(state: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([state[k].reshape(-1) for k in a])

    assert distance.before == pytest.approx(float((flat(a) - flat(b)).norm()))
    assert distance.after == pytest.approx(float((flat(a) - flat(moved)).norm()))
    cosine = torch.nn.functional.cosine_similarity
    assert distance.cosine_after == pytest.approx(float(cosine(flat(a), flat(moved), dim=0)))
    assert distance.after < distance.before
    assert 0 < distance.moved["s"] <= 1


@pytest.mark.parametrize("start", ["identity", "anchored"])
def test_a_dim_that_only_buffers_have_stays_as_it_is(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "buffers.yaml"
    path.write_text("dims:\n  i: within g\ntensors:\n  w: g _\n  v: a _\nbuffers:\n  m: (g i)\n  n: alone\n")
    shapes = {"w": (3, 4), "v": (5, 4), "m": (6,), "n": (7,)}
    layout = bind(load_spec(path), shapes)
    generator = torch.Generator().manual_seed(0)
    a, b = ({key: torch.randn(shape, generator=generator) for key, shape in shapes.items()} for _ in "ab")
    found = match_by_weights(Problem(layout, a, b), options=WeightsOptions(start=start))
    assert found.stop == "converged"
    assert found.permutation["alone"].tolist() == list(range(7))
    assert found.permutation["i"].tolist() == [[0, 1]] * 3
    gains = measure_distance(layout, a, b, found.permutation).gains
    assert gains["alone"] == 0.0
    assert min(gains["g"], gains["a"]) > 0.0


def wide_pair(size: float = 1.0, dtype: torch.dtype = torch.float32) -> Problem:
    """More than `SMALL` weights, so that similarities of float32 are in float32."""
    shapes = ((500, 40), (500, 500), (9, 500))
    layout = bind(find_spec("mlp"), {f"fc.{i}.weight": shape for i, shape in enumerate(shapes)})
    a, b = (
        {k: (size * t).to(dtype) for k, t in mlp_state(seed, (40, 500, 500, 9)).items() if k.endswith("weight")}
        for seed in (0, 1)
    )
    return Problem(layout, a, b)


WAYS: Mapping[str, Callable[[Problem], MatchResult]] = {
    "weights": match_by_weights,
    "frank-wolfe": lambda problem: match_by_frank_wolfe(problem, options=FrankWolfeOptions(max_iterations=3)),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_objective_of_a_large_network_is_summed_in_float64(way: str) -> None:
    problem = wide_pair()
    found = WAYS[way](problem)
    assert found.objective[-1] == pytest.approx(problem.objective(found.permutation), rel=1e-13)
    assert list(found.objective) == sorted(found.objective)


@pytest.mark.parametrize("way", WAYS)
def test_weights_whose_products_overflow_float32_are_matched(way: str) -> None:
    found = WAYS[way](wide_pair(2.0**80))
    problem = wide_pair()
    plain = problem.objective(WAYS[way](problem).permutation)
    assert problem.objective(found.permutation) == pytest.approx(plain, rel=1e-3)


def test_products_beyond_float64_are_refused() -> None:
    with pytest.raises(ContentError, match="not finite") as caught:
        match_by_weights(wide_pair(1e200, torch.float64))
    assert "divide the weights of both" in str(caught.value.remedy)


def test_float8_weights_with_heads_are_matched(tmp_path: Path) -> None:
    """Torch cannot gather these along two axes at once."""
    layout, a, b = tiny_layout("heads", tmp_path), tiny_state("heads", 1), tiny_state("heads", 2)
    narrow = [{key: tensor.to(torch.float8_e4m3fn) for key, tensor in state.items()} for state in (a, b)]
    wide = [{key: tensor.double() for key, tensor in state.items()} for state in narrow]
    found, expected = (match_by_weights(Problem(layout, *pair)) for pair in (narrow, wide))
    assert found.permutation.equals(expected.permutation)


@pytest.mark.parametrize(
    ("side", "dtype", "similarities"),
    [(600, torch.float32, torch.float32), (600, torch.float64, torch.float64), (512, torch.float32, torch.float64)],
)
def test_similarities_of_large_networks_are_of_their_type(
    side: int, dtype: torch.dtype, similarities: torch.dtype
) -> None:
    """Up to 2^18 elements they are in float64 anyway; a layout may have a single tensor."""
    layout = bind(parse_spec("tensors:\n  w: h _\n", "t.yaml"), {"w": (side, side)})
    assert similarity_dtype(layout, {"w": torch.zeros(side, side, dtype=dtype)}) == similarities
