"""Which dims of a layout have signs, and on which sides these act."""

from __future__ import annotations

from math import factorial, log10

import pytest

from tests.spec.building import bound, shown, spec_of

TEXT = """
dims:
  v.{i}: within kv.{i}
signs:
  - s without odd
  - v.{i}
  - m.{i}
tensors:
  norm: "|s|"
  odd?: s
  b.{i}.v: (kv.{i} v.{i}) s
  b.{i}.up: (|m.{i}| + m.{i}) s
  b.{i}.down: s m.{i}
"""
SHAPES = {"norm": (6,), "b.0.v": (8, 6), "b.0.up": (10, 6), "b.0.down": (6, 5)}


def test_signs_are_there_only_when_they_are_asked_for() -> None:
    plain, signed = (bound(TEXT, SHAPES, overrides={"v.0": 4}, signs=signs) for signs in (False, True))
    assert plain.signed() == ()
    assert set(signed.signed()) == {"s", "v.0", "m.0"}
    assert signed.without_signs().dims == plain.dims
    assert {key: shown(signed, key) for key in SHAPES} == {key: shown(plain, key) for key in SHAPES}
    assert not any(side.still for tensor in plain.tensors.values() for piece in tensor.pieces for side in piece.sides)


def test_bars_hold_for_the_side_they_are_on() -> None:
    layout = bound(TEXT, SHAPES, overrides={"v.0": 4}, signs=True)
    still = {key: [[side.still for side in p.sides] for p in bound.pieces] for key, bound in layout.tensors.items()}
    assert still["norm"] == [[True]]
    assert still["b.0.up"] == [[True, False], [False, False]]
    assert still["b.0.v"] == [[False, False, False]]


def test_what_stays_has_no_signs() -> None:
    frozen = bound(TEXT, SHAPES, overrides={"v.0": 4}, signs=True, freeze=["m"])
    assert set(frozen.signed()) == {"s", "v.0"}
    lifted = bound(TEXT, {**SHAPES, "odd": (6,)}, overrides={"v.0": 4}, signs=True)
    assert set(lifted.signed()) == {"v.0", "m.0"}


def test_symmetries_are_counted_once_for_each_unit_of_an_owner() -> None:
    layout = bound(TEXT, {**SHAPES, "b.0.v": (12, 6)}, overrides={"v.0": 4}, signs=True)
    assert layout.log10_signs() == pytest.approx((6 + 3 * 4 + 5) * log10(2))
    orders = factorial(6) * factorial(3) * factorial(4) ** 3 * factorial(5)
    assert layout.log10_symmetries() == pytest.approx(log10(orders))


def test_signs_have_a_hash_of_their_own() -> None:
    whole = spec_of(TEXT)
    plain = spec_of(TEXT.replace("|", "").replace("signs:\n  - s without odd\n  - v.{i}\n  - m.{i}\n", ""))
    other = spec_of(TEXT.replace("|m.{i}| + m.{i}", "m.{i} + |m.{i}|"))
    assert whole.sha256 == plain.sha256 == other.sha256
    assert len({spec.signs_sha256 for spec in (whole, plain, other)}) == 3
