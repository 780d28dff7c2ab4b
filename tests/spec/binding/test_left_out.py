"""Tensors that are left out of the match: they move where the spec says how, or what they stand for stays."""

from __future__ import annotations

import pytest

from tests.spec.building import bound, shown, still

CHAIN = """
    tensors:
      fc{i}.weight: h.{i} h.{prev i}
      fc{i}.bias?: h.{i}
    dims:
      h.{last i}: fixed
    """
SHAPES = {"fc0.weight": (5, 4), "fc0.bias": (5,), "fc1.weight": (6, 5), "fc1.bias": (6,), "fc2.weight": (3, 6)}


@pytest.mark.parametrize("key", SHAPES)
def test_an_ignored_tensor_moves_as_it_would(key: str) -> None:
    layout, plain = bound(CHAIN, SHAPES, ignore=[key]), bound(CHAIN, SHAPES)
    assert layout.moving() == plain.moving() == ("h.0", "h.1")
    assert shown(layout, key) == shown(plain, key)
    assert layout.tensors[key].section == "ignored"


def test_a_head_of_another_size_still_follows_its_inputs() -> None:
    layout = bound(CHAIN, {**SHAPES, "fc2.weight": (100, 6)}, ignore=["fc2.*"])
    assert layout.moving() == ("h.0", "h.1")
    assert shown(layout, "fc2.weight") == ["0: _ 100*6, h.1 6*1"]


def test_a_dim_stays_where_an_ignored_tensor_does_not_fit() -> None:
    layout = bound(CHAIN, {**SHAPES, "fc2.weight": (3, 7)}, ignore=["fc2.weight"])
    assert layout.moving() == ("h.0",)
    assert still(layout)["h.1"] == "fc2.weight is left out of the match, and has another size there"
    assert any(note.startswith("dim h.1 at identity: fc2.weight is left out") for note in layout.notes)
    assert shown(layout, "fc2.weight") == ["0: _ 21*1"]


def test_a_dim_stays_where_an_ignored_tensor_has_other_axes() -> None:
    layout = bound(CHAIN, {**SHAPES, "fc1.bias": (6, 1)}, ignore=["fc1.bias"])
    assert layout.moving() == ()  # the line is for every h.{i}
    assert "does not fit its line" in still(layout)["h.1"]


def test_dims_of_other_lines_move_all_the_same() -> None:
    text = "tensors:\n  a: x _\n  b: y x\n  c?: x\n  d: _ y\n"
    layout = bound(text, {"a": (4, 3), "b": (5, 4), "c": (4, 1), "d": (2, 5)}, ignore=["c"])
    assert layout.moving() == ("y",)


def test_a_dim_of_ignored_tensors_alone_has_their_size() -> None:
    text = "tensors:\n  a: x y\n  b: y z\n  c: z\n"
    layout = bound(text, {"a": (2, 3), "b": (3, 4), "c": (4,)}, ignore=["b", "c"])
    assert layout.dims["z"].size == 4
    assert shown(layout, "b") == ["0: y 3*4, z 4*1"]


def test_what_is_within_a_dim_that_cannot_be_followed_stays() -> None:
    text = "dims:\n  v: within head\nsizes:\n  head: [2]\ntensors:\n  q: (head v) _\n  o: _ (head v)\n"
    layout = bound(text, {"q": (6, 5), "o": (5, 8)}, ignore=["o"])
    assert layout.moving() == ()


def test_tensors_without_a_counterpart_move_unmatched() -> None:
    layout = bound(CHAIN, SHAPES, apart=["fc1.bias"])
    assert layout.tensors["fc1.bias"].section == "ignored"
    assert shown(layout, "fc1.bias") == ["0: h.1 6*1"]


def test_dims_that_stay_for_the_other_network() -> None:
    layout = bound(CHAIN, SHAPES, still={"h.0": "it stays in A", "nothing": "not here"})
    assert still(layout)["h.0"] == "it stays in A"
    assert layout.moving() == ("h.1",)


def test_a_note_lists_dims_in_the_order_of_the_spec() -> None:
    names = [f"part{i}" for i in range(8)]
    text = "tensors:\n" + "".join(f"  {name}: {name}\n" for name in names) + f"  all: {' + '.join(names)}\n"
    layout = bound(text, {**dict.fromkeys(names, (2,)), "all": (17,)}, ignore=["all"])
    assert any(note.startswith(f"dims {', '.join(names)} at identity") for note in layout.notes)
