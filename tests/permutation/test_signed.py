"""Signed units: the algebra against its meaning, exact bits, and the file."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoints.header import SIGN_BITS, TensorInfo
from rebasin_cli.checkpoints.tensors import as_bytes, as_elements, torch_dtype
from rebasin_cli.errors import ContentError
from rebasin_cli.permutation.files import load_permutation, save_permutation
from rebasin_cli.permutation.gather import permute_tensor, permuted
from rebasin_cli.permutation.values import Permutation, signs_of, units_of
from rebasin_cli.spec import Request, bind
from rebasin_cli.spec.language.loading import parse_spec
from tests.signed_networks import SIGNED, signed_forward, signed_layout, signed_state


@pytest.fixture(params=list(SIGNED))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_gather_turns_the_signs_that_act(name: str) -> None:
    """Against a permutation without signs, and signs multiplied to B beforehand, each side by itself."""
    layout, b = signed_layout(name), signed_state(name, 1)
    drawn = Permutation.random(layout, 3)
    assert drawn.has_signs
    for key, bound in layout.tensors.items():
        found = permute_tensor(drawn, layout, key, b.__getitem__)
        plain = permute_tensor(drawn.without_signs(), layout, key, b.__getitem__)
        expected = plain.clone()
        for piece in bound.pieces:
            for place in product(*(range(side.size) for side in piece.sides)):
                sign = 1.0
                for at, side in enumerate(piece.sides):
                    if side.dim in layout.signed() and not side.still:
                        owner = bound.place if side.owner == -1 else None if side.owner is None else place[side.owner]
                        perm = drawn[side.dim] if owner is None else drawn[side.dim][owner]
                        sign *= float(signs_of(perm, plain)[place[at]])
                offset = piece.offset + sum(i * s.stride for i, s in zip(place, piece.sides, strict=True))
                expected.view(-1)[offset] *= sign
        assert torch.equal(found, expected), key


def test_the_function_is_kept_and_the_inverse_undoes(name: str) -> None:
    layout, b = signed_layout(name), signed_state(name, 1)
    drawn = Permutation.random(layout, 5)
    there = dict(permuted(drawn, layout, b))
    torch.testing.assert_close(signed_forward(name, there), signed_forward(name, b), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(tensor, b[key]) for key, tensor in permuted(drawn.inverse(layout), layout, there).items())


def test_one_after_the_other_is_the_composition(name: str) -> None:
    layout, b = signed_layout(name), signed_state(name, 1)
    one, two = Permutation.random(layout, 5), Permutation.random(layout, 6)
    in_turn = dict(permuted(two, layout, dict(permuted(one, layout, b))))
    assert all(torch.equal(t, in_turn[key]) for key, t in permuted(one.compose(two, layout), layout, b).items())
    assert one.compose(one.inverse(layout), layout).equals(Permutation.identity(layout))


def test_signs_leave_the_units_that_are_drawn() -> None:
    layout = signed_layout("stream")
    assert Permutation.random(layout, 7).without_signs().equals(Permutation.random(layout.without_signs(), 7))


@pytest.mark.parametrize("dtype", list(SIGN_BITS))
def test_signs_are_exact_for_every_bit_pattern(dtype: str) -> None:
    spec = parse_spec("signs:\n  - h\ntensors:\n  a: h\n  b: _ h\n")
    layout = bind(spec, {"a": (4,), "b": (1, 4)}, Request(signs=True))
    width = 8 if dtype == "C64" else torch_dtype(dtype).itemsize
    raw = torch.randint(256, (4 * width,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    raw[:width] = 0
    info = TensorInfo(dtype, (4,))
    turned = Permutation({"h": torch.tensor([~0, 1, ~2, 3])})
    found = as_bytes(permute_tensor(turned, layout, "a", lambda _: as_elements(raw, info), SIGN_BITS[dtype]), info)
    values, moved = raw.view(torch_dtype(dtype)), found.view(torch_dtype(dtype))
    wide = torch.complex128 if dtype == "C64" else torch.float64
    expected = values.to(wide) * torch.tensor([-1, 1, -1, 1])
    torch.testing.assert_close(moved.to(wide), expected, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(found[:width], raw[:width])  # zero becomes minus zero
    back = permute_tensor(turned, layout, "a", lambda _: as_elements(found, info), SIGN_BITS[dtype])
    assert torch.equal(as_bytes(back, info), raw)
    if not values.is_complex():
        assert torch.equal(permute_tensor(turned, layout, "a", lambda _: values).view(torch.uint8), found)


def test_a_file_keeps_signs_in_a_format_of_its_own(tmp_path: Path) -> None:
    layout = signed_layout("stream")
    for seed, signs in ((3, True), (4, False)):
        drawn = Permutation.random(layout if signs else layout.without_signs(), seed)
        path = tmp_path / f"{seed}.safetensors"
        save_permutation(path, drawn, layout, inputs={"a": "0", "b": "1"})
        saved = load_permutation(path)
        assert saved.permutation.equals(drawn)
        assert saved.symmetry == ("signs" if signs else "permutations")
        head = json.loads(path.read_bytes()[8:].partition(b"}}")[0] + b"}}")
        assert head["__metadata__"]["format"] == f"rebasin.permutation/{2 if signs else 1}"
        saved.check_fits(layout)
        if signs:
            with pytest.raises(ContentError, match="turns signs of dim"):
                saved.check_fits(layout.without_signs())


def test_signs_that_act_elsewhere_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    save_permutation(path, Permutation.random(signed_layout("stream"), 3), signed_layout("stream"), inputs={})
    other = parse_spec(SIGNED["stream"].text.replace('"|m| s"', "m s"), "stream.yaml")
    assert other.sha256 == signed_layout("stream").spec.sha256
    with pytest.raises(ContentError, match="lets them act elsewhere"):
        load_permutation(path).check_fits(bind(other, SIGNED["stream"].shapes, Request(signs=True)))


@pytest.mark.parametrize(
    ("format_", "indices", "message"),
    [
        ("rebasin.permutation/1", [0, ~1, 2], "is not a permutation"),
        ("rebasin.permutation/2", [0, ~0, 2], "is not a permutation"),
        ("rebasin.permutation/9", [0, 1, 2], "of another version, 'rebasin.permutation/9'"),
        ("pt", [0, 1, 2], "is not a permutation file"),
    ],
)
def test_what_is_no_permutation_file_is_refused(format_: str, indices: list[int], message: str, tmp_path: Path) -> None:
    save_file({"h": torch.tensor(indices)}, tmp_path / "p.safetensors", {"format": format_})
    with pytest.raises(ContentError, match=message):
        load_permutation(tmp_path / "p.safetensors")


def test_shares_of_moved_and_of_turned_units() -> None:
    permutation = Permutation({"h": torch.tensor([0, ~1, 3, 2])})
    assert permutation.fraction_turned("h") == 0.25
    assert permutation.fraction_moved("h") == 0.75
    assert torch.equal(units_of(permutation["h"]), torch.tensor([0, 1, 3, 2]))
