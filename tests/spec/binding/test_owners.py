"""Dims within dims: who owns whom, and where in a tensor the owner stands."""

from __future__ import annotations

from tests.spec.building import bound, owners, refusal, shown, sizes

GROUPED = """
    sizes:
      g: config.groups
    dims:
      a: within g
      c: within g
    tensors:
      before: (g a) _
      conv: (g c) a _ _
      after: _ (g c)
    """


def test_a_grouped_convolution_has_its_owner_across_axes() -> None:
    shapes = {"before": (12, 5), "conv": (8, 6, 3, 3), "after": (5, 8)}
    layout = bound(GROUPED, shapes)
    assert sizes(layout) == {"g": 2, "a": 6, "c": 4}
    assert shown(layout, "conv") == ["0: g 2*216, c<0 4*54, a<0 6*9, _ 9*1"]


def test_an_owner_of_one_unit_dissolves() -> None:
    layout = bound(GROUPED, {"before": (6, 5), "conv": (8, 6, 3, 3), "after": (5, 8)})
    assert layout.dims["g"].size == 1
    assert owners(layout) == {}
    assert shown(layout, "conv") == ["0: c 8*54, a 6*9, _ 9*1"]


NESTED = "dims:\n  b: within a\n  c: within b\ntensors:\n  x: (a b c)\n  y: (a b)\n  z: a\n"


def test_an_owner_of_one_unit_leaves_its_own_owner() -> None:
    layout = bound(NESTED, {"x": (24,), "y": (6,), "z": (2,)})
    assert owners(layout) == {"b": "a", "c": "b"}
    assert layout.owner_sizes("c") == (2, 3)
    assert shown(layout, "x") == ["0: a 2*12, b<0 3*4, c<1 4*1"]
    layout = bound(NESTED, {"x": (8,), "y": (2,), "z": (2,)})
    assert owners(layout) == {"b": "a", "c": "a"}
    assert layout.owner_sizes("c") == (2,)
    assert shown(layout, "x") == ["0: a 2*4, c<0 4*1"]


def test_the_nearest_outer_side_owns_a_repeated_dim() -> None:
    layout = bound("dims:\n  v: within h\ntensors:\n  x: (h v) + (h v) (h v)\n  y: h\n", {"x": (12, 6), "y": (2,)})
    assert shown(layout, "x") == [
        "0: h 2*18, v<0 3*6, h 2*3, v<2 3*1",
        "36: h 2*18, v<0 3*6, h 2*3, v<2 3*1",
    ]


def test_an_owner_twice_outside_a_dim_is_the_inner_one() -> None:
    layout = bound("dims:\n  v: within h\ntensors:\n  x: (h (h v))\n  y: h\n", {"x": (12,), "y": (2,)})
    assert shown(layout, "x") == ["0: h 2*6, h 2*3, v<1 3*1"]


def test_the_owner_on_the_same_axis_comes_before_one_on_another() -> None:
    """Groups counted innermost: the channels of `(c g)` belong to the `g` after them, not to the one on axis 0."""
    layout = bound("dims:\n  c: within g\ntensors:\n  x: g (c g)\n  y: g\n", {"x": (2, 6), "y": (2,)})
    assert shown(layout, "x") == ["0: g 2*6, c<2 3*2, g 2*1"]


def test_two_other_axes_with_the_owner_are_refused() -> None:
    said = refusal("dims:\n  c: within g\ntensors:\n  x: g c g\n  y: g\n", {"x": (2, 3, 2), "y": (2,)})
    assert "x: dim c is within g, which stands on 2 other axes" in said
    assert "put `g` beside it, on the same axis: `(owner dim)`" in said


def test_an_owner_that_is_not_in_the_tensor_is_refused() -> None:
    said = refusal(
        "dims:\n  c: within g\ntensors:\n  x: (g c)\n  z: _ c\n  y: g\n", {"x": (6,), "y": (2,), "z": (5, 3)}
    )
    assert "z: dim c is within g, which does not stand in this tensor" in said
    assert "where: test.yaml:5" in said


def test_an_owner_in_another_segment_does_not_count() -> None:
    said = refusal("dims:\n  c: within g\ntensors:\n  x: (g c) + c\n  y: g\n", {"x": (9,), "y": (2,)})
    assert "x: dim c is within g, which does not stand in this tensor" in said


def test_an_owner_that_is_absent_from_the_checkpoint_is_refused() -> None:
    text = "dims:\n  q.{i}: within kv.{i}\ntensors:\n  a.{i}?: (kv.{i} q.{i})\n  b.{i}: q.{i}\n"
    said = refusal(text, {"b.0": (3,)})
    assert "dim `kv.{i}` with i = 0 is used, but no tensor brings it into being" in said
    assert "where: test.yaml:2" in said
    text = "dims:\n  q.{i}: within q.{prev i}\ntensors:\n  b.{i}: q.{i}\n"
    assert "dim `q.0` is within `q.{prev i}`, which is absent" in refusal(text, {"b.0": (3,)})


def test_a_ring_of_owners_is_refused() -> None:
    said = refusal("dims:\n  a: within b\n  b: within a\ntensors:\n  x: (b a)\n", {"x": (6,)})
    assert "dims are within one another: b within a within b" in said


def test_an_alias_as_owner_is_what_it_stands_for() -> None:
    layout = bound("dims:\n  g2: same as g1\n  c: within g2\ntensors:\n  x: (g1 c)\n  y: g2\n", {"x": (6,), "y": (2,)})
    assert owners(layout) == {"c": "g1"}


def test_a_fixed_owner_still_owns() -> None:
    text = "dims:\n  g: fixed because of the mask\n  c: within g\ntensors:\n  x: (g c)\n  y: g\n"
    layout = bound(text, {"x": (6,), "y": (2,)})
    assert layout.moving() == ("c",)
    assert shown(layout, "x") == ["0: g 2*3, c<0 3*1"]
    assert layout.owner_sizes("c") == (2,)
