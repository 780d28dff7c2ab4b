"""The `axes` section (names for what an axis consists of) and keys that hold tables of further keys."""

from __future__ import annotations

import pytest

from rebasin_cli.errors import ContentError
from tests.spec.building import bound, refusal, shown, sizes, spec_of

WIRED = """
axes:
  reads.down.0: stem
  reads.down.{b}: out.down.0
  reads.up.{b}: out.down.1 + out.down.0
  out.down.{b}: (group.{b} unit.{b})
  out.up.{b}: last
dims:
  unit.{b}: within group.{b}
sizes:
  group.{b}: 2
tensors:
  stem.weight: stem _
  "{side:down,up}.{b}.":
    norm.{weight,bias}: reads.{side}.{b}
    linear.weight: out.{side}.{b} reads.{side}.{b}
"""
SHAPES = {
    "stem.weight": (5, 3),
    "down.0.norm.weight": (5,), "down.0.norm.bias": (5,), "down.0.linear.weight": (6, 5),
    "down.1.norm.weight": (6,), "down.1.norm.bias": (6,), "down.1.linear.weight": (8, 6),
    "up.0.norm.weight": (14,), "up.0.norm.bias": (14,), "up.0.linear.weight": (7, 14),
}  # fmt: skip


def test_names_are_spelled_out_where_they_stand() -> None:
    layout = bound(WIRED, SHAPES)
    assert sizes(layout) == {"stem": 5, "group.0": 2, "unit.0": 3, "group.1": 2, "unit.1": 4, "last": 7}
    assert shown(layout, "up.0.norm.weight") == [
        "0: group.1 2*4, unit.1<0 4*1",
        "8: group.0 2*3, unit.0<0 3*1",
    ]
    assert layout.tensors["down.0.linear.weight"].pattern == "(group.0 unit.0) stem"


def test_the_name_with_fewest_variables_counts() -> None:
    assert shown(bound(WIRED, SHAPES), "down.0.norm.bias") == ["0: stem 5*1"]
    assert shown(bound(WIRED, SHAPES), "down.1.norm.bias") == ["0: group.0 2*3, unit.0<0 3*1"]


def test_an_offset_moves_the_name() -> None:
    text = """
    axes:
      s.0: stem
      s.{b}: wide.{b} + _:1
    sizes:
      wide.{b}: 4
    tensors:
      "{b}.weight": s.{b+1} s.{b}
    """
    layout = bound(text, {"0.weight": (5, 3), "1.weight": (5, 5)})
    assert sizes(layout) == {"wide.1": 4, "stem": 3, "wide.2": 4}


def test_words_with_dots_are_several_parts_of_a_name() -> None:
    text = """
    axes:
      in.mid: a
      in.down.1: b
    tensors:
      "{at:mid,down.1}.weight": in.{at}
    """
    layout = bound(text, {"mid.weight": (2,), "down.1.weight": (3,)})
    assert sizes(layout) == {"a": 2, "b": 3}


def test_a_table_may_have_several_beginnings() -> None:
    text = """
    tensors:
      "{at:down,up}.{b}. {at:mid}.{b}.extra.":
        w: h.{at}.{b} h.{at}.{b}
    """
    layout = bound(text, {"down.0.w": (2, 2), "mid.1.extra.w": (3, 3)})
    assert sizes(layout) == {"h.down.0": 2, "h.mid.1": 3}


def test_a_place_that_axes_does_not_have_is_refused() -> None:
    said = refusal(WIRED.replace("reads.up.{b}", "reads.up.1"), SHAPES)
    assert "up.0.norm.weight: `axes` does not say what `reads.up.0` is" in said
    assert "add a line for it to `axes`" in said


@pytest.mark.parametrize(
    ("axes", "pattern", "said"),
    [
        ("s.{b}: t.{c}", "s.{b}", "`t.{c}` uses `{c}`, which `s.{b}` does not have"),
        ("s.{b}: t.{b} u.{b}", "s.{b}", "stands for one axis, and `t.{b} u.{b}` is 2"),
        ("s.{b}: x.{b}\n  s.{b} : t.{b}", "s.{b}", "`s.{b}` is given twice"),
        ("'s.{1,2}': x\n  s.2: y", "s.{b}", "`s.2` stands on lines 2 and 3"),
        ("s.{b}: t.{b}\n  t.{b}: (2 s.{b})", "s.{b}", "stands for itself in the end"),
        ("s.{b+1}: t.{b}", "s.{b}", "a name in `axes` has words, numbers and plain {i} only"),
        ("s.{b}: t.{b}", "s.{prev b}", "which stands plainly or with an offset"),
        ("s.{b}: t.{b} + _:rest", "s.{b}", "`_:rest` names a size that `sizes` does not have"),
        ("s.{b}: t.{prev b}", "s.{b}", "no line names it plainly"),
    ],
)
def test_what_is_wrong_with_axes_is_refused(axes: str, pattern: str, said: str) -> None:
    with pytest.raises(ContentError) as caught:
        spec_of(f"axes:\n  {axes}\ntensors:\n  '{{b}}.w': {pattern}\n")
    assert said in str(caught.value)


def test_rules_may_name_dims_of_axes_only() -> None:
    spec = spec_of("axes:\n  s: t\ndims:\n  t: fixed\ntensors:\n  w: s\n")
    with pytest.raises(ContentError, match="dim `s` stands in no pattern"):
        spec_of("axes:\n  s: t\ndims:\n  s: fixed\ntensors:\n  w: s\n")
    assert spec.sha256 != spec_of("axes:\n  s: u\ndims:\n  u: fixed\ntensors:\n  w: s\n").sha256
