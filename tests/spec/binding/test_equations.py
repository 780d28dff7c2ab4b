"""Sizes from shapes: equations solved together, and contradictions that name both sides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.errors import UsageError
from rebasin_cli.spec import bind
from tests.spec.building import bound, refusal, shown, sizes, spec_of, still

PRODUCTS = "tensors:\n  a: (h x) + (h x) + v\n  b: v\n  c: (h y)\n  d: (y 3)\n"


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_everything_that_follows_is_found(h: int, x: int, y: int, v: int) -> None:
    layout = bound(PRODUCTS, {"a": (2 * h * x + v,), "b": (v,), "c": (h * y,), "d": (3 * y,)})
    assert sizes(layout) == {"h": h, "x": x, "v": v, "y": y}
    assert still(layout) == {}


def test_a_contradiction_names_both_tensors() -> None:
    said = refusal("tensors:\n  a: h o\n  b: h\n", {"a": (3, 4), "b": (5,)})
    assert "dim h is 3 by a axis 0, but 5 by b axis 0" in said
    assert "where: test.yaml:3" in said


def test_a_sum_that_does_not_add_up_says_what_it_is_made_of() -> None:
    said = refusal("tensors:\n  a: h\n  b: v\n  c: h + v + h\n", {"a": (3,), "b": (4,), "c": (11,)})
    assert "c axis 0 has 11 units, its pattern makes 10 (dim h is 3 by a axis 0; dim v is 4 by b axis 0)" in said
    assert "where: test.yaml:4" in said


def test_what_is_indivisible_is_refused() -> None:
    said = refusal("tensors:\n  a: (4 h) o\n", {"a": (10, 3)})
    assert "a axis 0 has 10 units, which is not 4 × dim h" in said
    said = refusal("tensors:\n  a: 3 + (4 h)\n", {"a": (10,)})
    assert "a axis 0 has 10 units, which is not 3 + 4 × dim h" in said
    said = refusal("tensors:\n  a: h\n  b: h + x\n", {"a": (5,), "b": (4,)})
    assert "b axis 0 has 4 units, which is not 5 + a whole number of dim x (dim h is 5 by a axis 0)" in said


def test_a_number_must_be_the_number() -> None:
    assert "a axis 0 has 3 units, its pattern makes 4" in refusal("tensors:\n  a: 4\n", {"a": (3,)})
    assert shown(bound("tensors:\n  a: (2 h)\n", {"a": (6,)}), "a") == ["0: _ 2*3, h 3*1"]


def test_a_segment_may_be_empty_and_an_axis_may_not() -> None:
    layout = bound("tensors:\n  a: h\n  b: h + x\n  c: x + h\n", {"a": (5,), "b": (5,), "c": (5,)})
    assert sizes(layout) == {"h": 5, "x": 0}
    assert shown(layout, "c") == ["0: h 5*1"]
    assert "a axis 0 has 0 units" in refusal("tensors:\n  a: h\n", {"a": (0,)})


HEADS = """
    sizes:
      head_dim: [config.head_dim, config.width / config.heads, 4]
    dims:
      v: within h
    tensors:
      q: (h _:head_dim) e
      o: (h v)
    """


def test_a_size_from_the_config_is_the_first_that_is_there() -> None:
    shapes = {"q": (24, 5), "o": (12,)}
    assert bound(HEADS, shapes, config={"head_dim": 8}).sizes == {"head_dim": 8}
    assert bound(HEADS, shapes, config={"head_dim": None, "width": 24, "heads": 4}).sizes == {"head_dim": 6}
    assert bound(HEADS, shapes, config={"other": 1}).sizes == {"head_dim": 4}
    assert bound(HEADS, shapes).sizes == {"head_dim": 4}


def test_a_size_from_the_config_is_verified() -> None:
    said = refusal(HEADS, {"q": (24, 5), "o": (12,)}, config={"head_dim": 7})
    assert "q axis 0 has 24 units, which is not 7 × dim h" in said
    assert "(size head_dim is 7 by `config.head_dim`)" in said
    said = refusal("sizes:\n  h.{i}: config.heads\ntensors:\n  b.{i}: h.{i}\n", {"b.0": (6,)}, config={"heads": 4})
    assert "dim h.0 is 4 by `config.heads`, but 6 by b.0 axis 0" in said


def test_a_constant_only_fills_a_gap() -> None:
    text = "sizes:\n  h: 32\ntensors:\n  a: (h c)\n  b?: h\n"
    assert sizes(bound(text, {"a": (64,)})) == {"h": 32, "c": 2}
    assert sizes(bound(text, {"a": (64,), "b": (8,)})) == {"h": 8, "c": 8}


def test_gaps_are_filled_one_after_the_other() -> None:
    """What follows from the first constant is not overruled by the second."""
    text = "sizes:\n  h: 4\n  c: 8\ntensors:\n  a: (h c)\n"
    assert sizes(bound(text, {"a": (40,)})) == {"h": 4, "c": 10}


def test_a_size_may_be_made_of_others_and_of_the_dims_own_number() -> None:
    text = """
        sizes:
          groups: config.groups
          h.{i}: ["config.heads[i]"]
          c: groups * 2
        tensors:
          a: (c x)
          b.{i}: (h.{i} y.{i})
          n: _:groups
        """
    layout = bound(text, {"a": (24,), "b.0": (12,), "b.1": (12,), "n": (3,)}, config={"heads": [2, 4]})
    assert layout.sizes == {"groups": 3}
    assert sizes(layout) == {"c": 6, "x": 4, "h.0": 2, "h.1": 4, "y.0": 6, "y.1": 3}


def test_set_wins_over_config_and_constants_but_not_over_shapes() -> None:
    shapes = {"q": (24, 5), "o": (12,)}
    assert bound(HEADS, shapes, config={"head_dim": 8}, overrides={"head_dim": 2}).sizes == {"head_dim": 2}
    layout = bound(HEADS, shapes, overrides={"h": 6})
    assert (layout.sizes, layout.dims["h"].size, layout.dims["v"].size) == ({"head_dim": 4}, 6, 2)
    said = refusal(HEADS, shapes, overrides={"e": 6})
    assert "dim e is 6 by --set e=6, but 5 by q axis 1" in said


def test_set_names_a_family_or_one_dim() -> None:
    text = "tensors:\n  b.{i}: (h.{i} v.{i})\n"
    shapes = {"b.0": (12,), "b.1": (12,)}
    assert sizes(bound(text, shapes, overrides={"h": 3})) == {"h.0": 3, "v.0": 4, "h.1": 3, "v.1": 4}
    layout = bound(text, shapes, overrides={"h.1": 3})
    assert (layout.dims["h.1"].size, layout.dims["v.1"].size) == (3, 4)
    assert still(layout).keys() == {"h.0", "v.0"}


def test_set_refuses_unknown_names() -> None:
    with pytest.raises(UsageError, match=r"--set hed_dim=4: the spec `test` has no size or dim `hed_dim`") as caught:
        bound(HEADS, {"q": (24, 5), "o": (12,)}, overrides={"hed_dim": 4})
    assert caught.value.remedy == "did you mean `head_dim`?"
    with pytest.raises(UsageError, match="has no size or dim `zzz`") as caught:
        bound(HEADS, {"q": (24, 5), "o": (12,)}, overrides={"zzz": 4})
    assert caught.value.remedy == "it has head_dim, e, h, v"
    with pytest.raises(UsageError, match="--set h=-3: a size is a whole number from 1"):
        bound(HEADS, {"q": (24, 5), "o": (12,)}, overrides={"h": -3})


def test_dims_of_unknown_size_fix_their_axis_and_inner_dims() -> None:
    layout = bound(
        """
        sizes:
          head.{i}: config.heads
        dims:
          v.{i}: within head.{i}
          w.{i}: within v.{i}
        tensors:
          b.{i}.a: (head.{i} v.{i}) + other.{i} embed
          b.{i}.b: other.{i} (head.{i} v.{i} w.{i})
          c: embed
        """,
        {"b.0.a": (12, 3), "b.0.b": (4, 12), "c": (3,)},
    )
    assert still(layout) == {
        "head.0": "not known: head, v, w",
        "v.0": "not known: head, v, w",
        "w.0": "not known: head, v, w",
        "other.0": "not known: head, v",
    }
    assert layout.moving() == ("embed",)
    (note,) = layout.notes
    assert "dims head, other, v, w stay at identity: the shapes do not tell head, v, w" in note
    assert "give config.json beside the checkpoint, or --set head=N" in note
    assert shown(layout, "b.0.b") == ["0: _ 48*1"]


def test_all_contradictions_are_listed() -> None:
    said = refusal("tensors:\n  a: h o\n  b: h o\n  c: h\n", {"a": (3, 4), "b": (5, 6), "c": (7,)})
    assert "(3 differences)" in said
    assert "dim h is 3 by a axis 0, but 5 by b axis 0" in said
    assert "dim o is 4 by a axis 1, but 6 by b axis 1" in said
    assert "dim h is 3 by a axis 0, but 7 by c axis 0" in said


def test_a_spec_is_bound_as_often_as_one_likes() -> None:
    spec = spec_of(PRODUCTS)
    shapes = {"a": (16,), "b": (4,), "c": (10,), "d": (15,)}
    assert bind(spec, shapes) == bind(spec, shapes)
