"""Linear maps of units: their algebra against the function of the networks, and the file that holds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.permutation.files import load_permutation, save_permutation
from rebasin_cli.permutation.gather import permute_tensor, permuted
from rebasin_cli.permutation.maps import check_gains, in_pairs, nearest_map, of_pairs, wrong_map
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec.binding.layout import MapKind
from rebasin_cli.spec.language.permutation_spec import PAIRS
from tests.rotated_networks import TEXTS, rotated_forward, rotated_layout, rotated_state


@pytest.fixture(params=list(TEXTS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_random_elements_keep_the_function_and_compose(name: str) -> None:
    layout, state = rotated_layout(name), rotated_state(name, 1)
    assert set(layout.rotated()) == {"s", "qk", "v"}
    first, second = (Permutation.random(layout, seed) for seed in (1, 2))
    moved = dict(permuted(first, layout, state))
    for key in state:
        assert not torch.allclose(moved[key], state[key]), key
    torch.testing.assert_close(rotated_forward(name, moved), rotated_forward(name, state), rtol=1e-9, atol=1e-9)
    both = dict(permuted(second, layout, moved))
    torch.testing.assert_close(dict(permuted(first.compose(second, layout), layout, state)), both)


def test_the_inverse_undoes_all_where_the_gains_are_known(name: str) -> None:
    layout, state = rotated_layout(name), rotated_state(name, 1)
    drawn = Permutation.random(layout, 1)
    gains = {key: torch.stack([state[key], given[1]]) for key, given in drawn.gains.items()}
    element = replace(drawn, gains=gains)
    back = dict(permuted(element.inverse(layout), layout, dict(permuted(element, layout, state))))
    torch.testing.assert_close(back, state)


def test_gains_alone_and_maps_of_one_dim_alone_keep_the_function(name: str) -> None:
    layout, state = rotated_layout(name), rotated_state(name, 1)
    drawn = replace(Permutation.random(layout, 1), indices={})
    parts = [drawn.only([dim]) for dim in layout.rotated()] + [replace(drawn, maps={})]
    for part in parts:
        moved = dict(permuted(part, layout, state))
        torch.testing.assert_close(rotated_forward(name, moved), rotated_forward(name, state), rtol=1e-9, atol=1e-9)


def holds(kind: MapKind, found: Tensor) -> bool:
    """Whether matrices are of a kind, apart from being orthogonal."""
    if kind == "keeps ones":
        return torch.allclose(found.sum(-1), torch.ones(3, 6, dtype=torch.float64))
    return torch.allclose(of_pairs(in_pairs(found, kind), kind), found) if kind in PAIRS else True


@pytest.mark.parametrize("kind", ["orthogonal", "keeps ones", "halves", "neighbours"])
def test_the_nearest_map_is_of_its_kind_and_the_nearest(kind: MapKind) -> None:
    matrix = torch.randn(3, 6, 6, dtype=torch.float64)
    found = nearest_map(matrix, kind)
    torch.testing.assert_close(found @ found.mT, torch.eye(6, dtype=torch.float64).expand(3, 6, 6))
    assert holds(kind, found)
    for other in ("keeps ones", "halves", "neighbours"):
        assert other == kind or not holds(other, found)
    for _ in range(20):
        drawn = nearest_map(torch.randn(3, 6, 6, dtype=torch.float64), kind)
        assert bool((((found - drawn) * matrix).sum((1, 2)) > 0).all())


def test_a_map_of_other_pairs_is_none_of_its_kind() -> None:
    layout = rotated_layout("halves")
    assert wrong_map(layout, Permutation.random(layout, 1).maps) == ""
    assert wrong_map(layout, Permutation.random(rotated_layout("neighbours"), 1).maps) == "qk"


def test_files_hold_maps_and_gains(name: str, tmp_path: Path) -> None:
    layout, drawn = rotated_layout(name), Permutation.random(rotated_layout(name), 1)
    save_permutation(tmp_path / "p.safetensors", drawn, layout, inputs={})
    with safe_open(tmp_path / "p.safetensors", "pt") as file:
        assert file.metadata()["format"] == "rebasin.permutation/4"
    saved = load_permutation(tmp_path / "p.safetensors")
    assert saved.permutation.equals(drawn)
    assert saved.symmetry == "rotations"
    saved.check_fits(layout)
    with pytest.raises(ContentError, match="rotates units of dim"):
        saved.check_fits(rotated_layout(name, rotations=False))


@pytest.mark.parametrize(
    ("key", "change", "says"),
    [
        ("map:qk", lambda t: t.mul_(0), "no invertible matrix"),
        ("map:s", lambda t: t.mul_(2), "map of dim s is not"),
        ("gains:norm.weight", lambda t: t[0, 0].zero_(), "other than zero"),
        ("gains:norm.weight", None, "gains are not those of the norms"),
    ],
)
def test_damaged_files_are_refused(name: str, key: str, change: object, says: str, tmp_path: Path) -> None:
    layout = rotated_layout(name)
    save_permutation(tmp_path / "p.safetensors", Permutation.random(layout, 1), layout, inputs={})
    with safe_open(tmp_path / "p.safetensors", "pt") as file:
        metadata = file.metadata()
    arrays = load_file(tmp_path / "p.safetensors")
    if callable(change):
        change(arrays[key])
    else:
        del arrays[key]
    save_file(arrays, tmp_path / "d.safetensors", metadata)
    with pytest.raises(ContentError, match=says):
        load_permutation(tmp_path / "d.safetensors").check_fits(layout)


def test_values_that_a_type_does_not_hold_are_refused() -> None:
    layout, state = rotated_layout("rms"), rotated_state("rms", 1)
    drawn = Permutation.random(layout, 1)
    tiny = {key: torch.stack([given[0], given[1] * 1e-8]) for key, given in drawn.gains.items()}
    small = {key: tensor.half() for key, tensor in state.items()}
    with pytest.raises(ContentError, match="does not hold"):
        permute_tensor(replace(drawn, gains=tiny), layout, "q", small.__getitem__)


def test_gains_of_zero_are_refused() -> None:
    layout, state = rotated_layout("rms"), rotated_state("rms", 1)
    check_gains(layout, state.__getitem__, "here")
    state["last.weight"][2] = 0
    with pytest.raises(ContentError, match=r"last.weight has gains of 0") as refused:
        check_gains(layout, state.__getitem__, "here")
    assert "--freeze s" in refused.value.remedy
