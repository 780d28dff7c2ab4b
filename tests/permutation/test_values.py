"""The algebra of permutations, against their meaning: element by element, on every kind of dim."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from rebasin_cli.errors import ContentError
from rebasin_cli.permutation.files import load_permutation, save_permutation
from rebasin_cli.permutation.gather import permute_tensor, permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import INDEX_SIDE, Layout
from tests.networks import TINY, tiny_layout, tiny_state


@pytest.fixture(params=list(TINY))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def slow_permute(layout: Layout, permutation: Permutation, b: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    """aligned[g, i] = b[P[g], p[g, i]], one element at a time."""
    bound = layout.tensors[key]
    source = key
    if bound.index_dim is not None:
        source = bound.siblings[int(permutation[bound.index_dim][bound.place])]
    flat, out = b[source].reshape(-1), torch.empty_like(b[key]).reshape(-1)
    for piece in bound.pieces:
        for place in product(*(range(side.size) for side in piece.sides)):
            unit = []
            for at, side in enumerate(piece.sides):
                if side.dim is None or side.dim not in permutation:
                    unit.append(place[at])
                    continue
                path, owner = [], side.owner
                while owner is not None:
                    path.append(bound.place if owner == INDEX_SIDE else place[owner])
                    owner = None if owner == INDEX_SIDE else piece.sides[owner].owner
                unit.append(int(permutation[side.dim][tuple(reversed(path))][place[at]]))
            to = piece.offset + sum(i * s.stride for i, s in zip(place, piece.sides, strict=True))
            origin = piece.offset + sum(i * s.stride for i, s in zip(unit, piece.sides, strict=True))
            out[to] = flat[origin]
    return out.reshape(b[key].shape)


def test_gather_is_what_the_convention_says(name: str, tmp_path: Path) -> None:
    layout, b = tiny_layout(name, tmp_path), tiny_state(name, 1)
    permutation = Permutation.random(layout, 3)
    for key in b:
        found = permute_tensor(permutation, layout, key, b.__getitem__)
        torch.testing.assert_close(found, slow_permute(layout, permutation, b, key), rtol=0, atol=0)


def test_inverse_undoes(name: str, tmp_path: Path) -> None:
    layout, b = tiny_layout(name, tmp_path), tiny_state(name, 1)
    permutation = Permutation.random(layout, 5)
    there = dict(permuted(permutation, layout, b))
    back = dict(permuted(permutation.inverse(layout), layout, there))
    assert any(not torch.equal(there[key], b[key]) for key in b)
    for key in b:
        torch.testing.assert_close(back[key], b[key], rtol=0, atol=0)


def test_composition_is_one_after_the_other(name: str, tmp_path: Path) -> None:
    layout, b = tiny_layout(name, tmp_path), tiny_state(name, 1)
    first, second = Permutation.random(layout, 5), Permutation.random(layout, 6)
    twice = dict(permuted(second, layout, dict(permuted(first, layout, b))))
    once = dict(permuted(first.compose(second, layout), layout, b))
    for key in b:
        torch.testing.assert_close(once[key], twice[key], rtol=0, atol=0)
    assert first.compose(first.inverse(layout), layout).equals(Permutation.identity(layout))


def test_random_is_reproducible_and_moves(name: str, tmp_path: Path) -> None:
    layout = tiny_layout(name, tmp_path)
    assert Permutation.random(layout, 9).equals(Permutation.random(layout, 9))
    assert not Permutation.random(layout, 9).equals(Permutation.random(layout, 10))
    assert all(perm.dtype == torch.int64 for perm in Permutation.random(layout, 9).values())


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]
)
def test_any_element_type_is_moved_bit_by_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    layout = tiny_layout("heads", tmp_path)
    permutation = Permutation.random(layout, 2)
    places = {key: torch.arange(t.numel()).reshape(t.shape) for key, t in tiny_state("heads", 0).items()}
    b = {key: (t % 2).to(dtype) if dtype == torch.bool else (t % 113).to(dtype) for key, t in places.items()}
    for key in b:
        moved = permute_tensor(permutation, layout, key, b.__getitem__)
        where = permute_tensor(permutation, layout, key, places.__getitem__)
        expected = b[key].contiguous().view(torch.uint8).reshape(b[key].numel(), -1)[where.reshape(-1)]
        assert moved.dtype == dtype
        assert torch.equal(moved.contiguous().view(torch.uint8).reshape(b[key].numel(), -1), expected)


def test_saved_permutation_comes_back_and_checks_its_fit(tmp_path: Path) -> None:
    layout = tiny_layout("heads", tmp_path)
    permutation = Permutation.random(layout, 2)
    path = tmp_path / "p.safetensors"
    save_permutation(path, permutation, layout, inputs={"a": "1" * 64, "b": "2" * 64})
    saved = load_permutation(path)
    assert saved.permutation.equals(permutation)
    assert saved.inputs == {"a": "1" * 64, "b": "2" * 64}
    saved.check_fits(layout)
    with pytest.raises(ContentError, match="made with the spec `heads`"):
        saved.check_fits(tiny_layout("chain", tmp_path))


def test_a_file_that_holds_no_permutation_is_refused(tmp_path: Path) -> None:
    layout = tiny_layout("chain", tmp_path)
    path = tmp_path / "p.safetensors"
    broken = Permutation.random(layout, 2).replace({"h.0": torch.zeros(7, dtype=torch.int64)})
    save_permutation(path, broken, layout, inputs={})
    with pytest.raises(ContentError, match=r"dim h.0 \[7\] is not a permutation"):
        load_permutation(path)


def test_a_checkpoint_is_not_taken_for_a_permutation(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tiny_state("chain", 0), str(tmp_path / "m.safetensors"))
    with pytest.raises(ContentError, match="is not a permutation file"):
        load_permutation(tmp_path / "m.safetensors")
