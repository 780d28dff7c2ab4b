"""Kept similarity matrices against ones made from the definition, while neighbours move a little or a lot."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.problem import Problem, Resources
from rebasin_cli.matching.resources import Budget
from rebasin_cli.matching.similarity.blocks import Block, Over, block_terms, blocks
from rebasin_cli.matching.similarity.contributions import chunks, forms_of
from rebasin_cli.matching.similarity.matrices import MENDS, Similarities
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout, bind, load_spec
from tests.networks import TINY, tiny_layout, tiny_state

WIDE = """
dims:
  h.{last i}: fixed
tensors:
  "{i}.weight": h.{i} h.{prev i}
  "{i}.bias": h.{i}
"""
WIDE_SHAPES = {"0.weight": (40, 9), "0.bias": (40,), "1.weight": (30, 40), "1.bias": (30,), "2.weight": (4, 30),
               "2.bias": (4,)}  # fmt: skip
CPU = torch.device("cpu")


def wide_layout(folder: Path) -> Layout:
    path = folder / "wide.yaml"
    path.write_text(WIDE)
    return bind(load_spec(path), WIDE_SHAPES)


def wide_state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in WIDE_SHAPES.items()}


def by_definition(layout: Layout, block: Block, a: dict, b: dict, permutation: Permutation) -> torch.Tensor:  # type: ignore[type-arg]
    terms = block_terms(Problem(layout, a, b), block, permutation, dtype=torch.float64, device=CPU)
    return sum((term.a @ term.b.T for term in terms), start=torch.tensor(0.0))


@pytest.mark.parametrize("name", list(TINY))
def test_matrices_are_what_the_definition_says(name: str, tmp_path: Path) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    kept = Similarities(Problem(layout, a, b), torch.float64, CPU, Budget(1 << 20))
    for seed in range(3):
        permutation = Permutation.random(layout, seed)
        for block in (block for block in blocks(layout) if len(block.dims) == 1 and name != "recurrent"):
            expected = by_definition(layout, block, a, b, permutation)
            torch.testing.assert_close(kept.matrix(block, permutation), expected)


@pytest.mark.parametrize("budget", [0, 1 << 20])
@pytest.mark.parametrize("name", list(TINY))
def test_matrices_of_dims_with_others_within_are_their_forms(name: str, budget: int, tmp_path: Path) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    kept = Similarities(Problem(layout, a, b), torch.float64, CPU, Budget(budget))
    for seed in (0, 0, 1, 2):
        permutation = Permutation.random(layout, seed)
        for block in (block for block in blocks(layout) if len(block.dims) > 1):
            assert kept.covers(block) == (name != "experts")
            if not kept.covers(block):
                continue
            terms = block_terms(Problem(layout, a, b), block, permutation, dtype=torch.float64, device=CPU)
            expected = {Over(dims): forms for dims, forms in forms_of(terms).items() if forms}
            found = kept.matrices(block, permutation)
            assert set(found) == set(expected)
            for over, (form,) in expected.items():
                torch.testing.assert_close(found[over].reshape(form.gram.shape), form.gram)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operands_cut_into_parts_add_up(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebasin_cli.matching.similarity.contributions.CACHED", 1)
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 1, 1500), (600, 1100, 2), (2, 1300, 1)):
        x, y = (torch.randn(shape, generator=generator).to(dtype) for _ in "xy")
        for one, two in ((x, y), (x.transpose(0, 1).contiguous().transpose(0, 1), y)):
            to = torch.randperm(shape[1], generator=generator)
            parts = list(chunks(one, two, None, to, torch.float64))
            total = sum(a @ b.T for a, b in parts)
            expected = torch.einsum("ipr,jpr->ij", x.double(), y[:, to].double())
            torch.testing.assert_close(total, expected)
            assert len(parts) > 1 or shape[1] == 1
            at, less = to[: shape[1] // 2], to.flip(0)[: shape[1] // 2]
            parts = list(chunks(one, two, at, to[: len(at)], torch.float64, less=less))
            difference = y[:, to[: len(at)]].double() - y[:, less].double()
            expected = torch.einsum("ipr,jpr->ij", x[:, at].double(), difference)
            torch.testing.assert_close(
                sum((a @ b.T for a, b in parts), torch.zeros(shape[0], shape[0])), expected, check_dtype=False
            )


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_a_few_moved_units_are_mended_and_many_are_not(budget: int, tmp_path: Path) -> None:
    layout, a, b = wide_layout(tmp_path), wide_state(1), wide_state(2)
    kept = Similarities(Problem(layout, a, b), torch.float64, CPU, Budget(budget))
    block = next(block for block in blocks(layout) if block.root == "h.0")
    permutation = Permutation.identity(layout)
    kept.matrix(block, permutation)
    few = permutation["h.1"].clone()
    few[[0, 1, 2]] = few[[1, 2, 0]]
    for moved in (few, torch.arange(30).flip(0)):
        permutation = permutation.replace({"h.1": moved})
        torch.testing.assert_close(kept.matrix(block, permutation), by_definition(layout, block, a, b, permutation))
    assert (kept.products.total(), kept.mends.total()) == ((2, 1) if budget else (3, 0))


def test_rounding_does_not_pile_up_in_a_mended_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, after a hundred moves of a neighbour there and back: made again in between, it is as at first."""
    layout = wide_layout(tmp_path)
    a, b = ({key: 1e3 * tensor for key, tensor in wide_state(seed).items()} for seed in (1, 2))
    kept = Similarities(Problem(layout, a, b), torch.float32, CPU, Budget(1 << 20))
    block = next(block for block in blocks(layout) if block.root == "h.0")
    permutation = Permutation.identity(layout)
    there = permutation["h.1"].clone()
    there[[0, 1, 2]] = there[[1, 2, 0]]
    visits = [there, permutation["h.1"]] * 50
    for moved in visits:
        kept.matrix(block, permutation.replace({"h.1": moved}))
    assert kept.products.total() >= len(visits) // (MENDS + 1)
    assert kept.mends.total() >= len(visits) - kept.products.total()


@pytest.mark.parametrize("seed", range(5))
def test_keeping_matrices_changes_nothing(seed: int, tmp_path: Path) -> None:
    layout, a, b = wide_layout(tmp_path), wide_state(1), wide_state(2)
    kept = match_by_weights(
        Problem(layout, a, b), Resources(seed=seed), WeightsOptions(start="identity", order="random")
    )
    again = match_by_weights(
        Problem(layout, a, b), Resources(seed=seed, memory=0), WeightsOptions(start="identity", order="random")
    )
    assert kept.permutation.equals(again.permutation)
    assert kept.objective == pytest.approx(again.objective, rel=1e-12)


@pytest.mark.parametrize("name", list(TINY))
def test_an_anchored_start_is_a_start_like_any_other(name: str, tmp_path: Path) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    result = match_by_weights(Problem(layout, a, b), options=WeightsOptions(start="anchored", order="forward"))
    assert all(after >= before for before, after in itertools.pairwise(result.objective[1:]))
    assert result.stop == "converged"
    assert match_by_weights(Problem(layout, a, b), options=WeightsOptions(start=result.permutation)).permutation.equals(
        result.permutation
    )
