"""Owners of one unit: taken out for the match, and back in its result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rebasin_cli.matching import inner_product, match_weights
from rebasin_cli.matching.lone import reshaped, without_lone_owners
from rebasin_cli.matching.terms import blocks
from rebasin_cli.permutation import Permutation, permuted
from rebasin_cli.spec import Layout, bind, load_spec

GROUPED = """
tensors:
  first: (g a) _
  grouped: (g c) a
  last: _ (g c)
dims:
  a: within g
  c: within g
sizes:
  g: [{groups}]
"""


def grouped(groups: int, folder: Path) -> Layout:
    path = folder / "grouped.yaml"
    path.write_text(GROUPED.replace("{groups}", str(groups)))
    return bind(load_spec(path), {"first": (12, 5), "grouped": (12, 12 // groups), "last": (4, 12)})


def state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"first": (12, 5), "grouped": (12, 12), "last": (4, 12)}
    return {key: torch.randn(shape, generator=generator, dtype=torch.float64) for key, shape in shapes.items()}


def test_one_group_is_taken_out_and_several_stay(tmp_path: Path) -> None:
    one, two = grouped(1, tmp_path), grouped(2, tmp_path)
    assert [block.dims for block in blocks(without_lone_owners(one))] == [("a",), ("c",)]
    assert without_lone_owners(two) is two


def test_the_same_permutation_gives_the_same_tensors(tmp_path: Path) -> None:
    layout = grouped(1, tmp_path)
    plain, a = without_lone_owners(layout), state(1)
    permutation = Permutation.random(layout, 5)
    assert permutation["a"].shape == (1, 12)
    freed = reshaped(permutation, plain)
    assert freed["a"].shape == (12,)
    assert reshaped(freed, layout).equals(permutation)
    for key, tensor in permuted(permutation, layout, a).items():
        assert torch.equal(tensor, permuted(freed, plain, a)[key])


@pytest.mark.parametrize("start", ["anchored", "identity"])
def test_results_have_the_shapes_of_the_layout(start: str, tmp_path: Path) -> None:
    layout = grouped(1, tmp_path)
    a, planted = state(1), Permutation.random(layout, 5)
    b = dict(permuted(planted, layout, a))
    result = match_weights(layout, a, b, start=start)  # type: ignore[arg-type]
    assert result.permutation["c"].shape == (1, 12)
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-12)
    again = match_weights(layout, a, b, start=result.permutation)
    assert again.permutation.equals(result.permutation)
    if start == "anchored":
        assert result.permutation.equals(planted.inverse(layout))
