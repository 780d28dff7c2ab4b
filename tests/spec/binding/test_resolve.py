"""What a dim's name means among the dims that a checkpoint's tensors bring into being."""

from __future__ import annotations

import pytest

from rebasin_cli.spec.binding.claims import Matcher, Shape, claim_tensors
from rebasin_cli.spec.binding.resolve import ResolutionError, Resolver, dim_instances
from rebasin_cli.spec.language import Value
from rebasin_cli.spec.language.pattern import dim_text, parse_dim_name
from rebasin_cli.spec.language.template import skeletons_by_key
from tests.spec.building import bound, refusal, shown, sizes, spec_of


def resolver(text: str, keys: list[str]) -> Resolver:
    spec = spec_of(text)
    shapes: dict[str, Shape] = dict.fromkeys(keys, (1,))
    claims, faults = claim_tensors(Matcher(spec), shapes, skeletons_by_key(shapes))
    assert faults == []
    return Resolver(spec, claims.values())


CHAIN = resolver("tensors:\n  f.{c}.w: conv.{c}\n", ["f.0.w", "f.3.w", "f.7.w", "f.10.w"])


@pytest.mark.parametrize(
    ("name", "c", "meant"),
    [
        ("conv.{c}", 3, ["conv.3"]),
        ("conv.{prev c}", 7, ["conv.3"]),
        ("conv.{prev c}", 10, ["conv.7"]),
        ("conv.{prev c}", 5, ["conv.3"]),
        ("conv.{prev c}", 0, None),
        ("conv.{next c}", 0, ["conv.3"]),
        ("conv.{next c}", 10, None),
        ("conv.{first c}", 7, ["conv.0"]),
        ("conv.{last c}", 0, ["conv.10"]),
        ("conv.{<c}", 7, ["conv.0", "conv.3"]),
        ("conv.{<c}", 0, []),
        ("conv.{*}", 7, ["conv.0", "conv.3", "conv.7", "conv.10"]),
        ("conv.{c-1}", 0, None),
        ("conv.{c-3}", 3, ["conv.0"]),
        ("conv.{c-3}", 10, ["conv.7"]),
        ("conv.{c+3}", 7, ["conv.10"]),
        ("conv.7", 0, ["conv.7"]),
    ],
)
def test_every_choice_among_the_values_observed(name: str, c: int, meant: list[str] | None) -> None:
    found = CHAIN.instances(parse_dim_name(name), {"c": c}, 1)
    assert (None if found is None else [dim_text(i) for i in found]) == meant


@pytest.mark.parametrize(("name", "c"), [("conv.{c}", 1), ("conv.{c-1}", 3), ("conv.{c+1}", 3), ("conv.4", 0)])
def test_a_dim_that_nothing_brings_into_being(name: str, c: int) -> None:
    with pytest.raises(ResolutionError) as caught:
        CHAIN.instances(parse_dim_name(name), {"c": c}, 12)
    assert f"dim `{name}` with c = {c} is used, but no tensor brings it into being" in caught.value.fault.what
    assert caught.value.fault.line == 12


BLOCKS = resolver(
    "tensors:\n  b.{s}.{l}.w: g.{s}.{l}\n  s.{s}.w: out.{s}\n",
    ["b.1.1.w", "b.1.2.w", "b.2.1.w", "b.2.5.w", "s.1.w", "s.2.w"],
)


@pytest.mark.parametrize(
    ("name", "bindings", "meant"),
    [
        ("g.{s}.{<l}", {"s": 2, "l": 5}, ["g.2.1"]),
        ("g.{s}.{*}", {"s": 1}, ["g.1.1", "g.1.2"]),
        ("g.{s}.{last l}", {"s": 1}, ["g.1.2"]),
        ("g.{prev s}.{last l}", {"s": 2}, ["g.1.2"]),
        ("g.{s-1}.{last l}", {"s": 2}, ["g.1.2"]),
        ("g.{s-1}.{last l}", {"s": 1}, None),
        ("g.{last s}.{*}", {}, ["g.2.1", "g.2.5"]),
        ("g.{*}.{first l}", {}, ["g.1.1", "g.2.1"]),
        ("out.{last s}", {}, ["out.2"]),
    ],
)
def test_choices_at_several_places_are_made_from_left_to_right(
    name: str, bindings: dict[str, Value], meant: list[str] | None
) -> None:
    found = BLOCKS.instances(parse_dim_name(name), bindings, 1)
    assert (None if found is None else [dim_text(i) for i in found]) == meant


def test_dims_are_listed_once_and_in_the_order_of_their_numbers() -> None:
    assert list(dim_instances(CHAIN)) == ["conv.0", "conv.3", "conv.7", "conv.10"]


def test_before_the_first_is_a_side_that_never_moves() -> None:
    layout = bound(
        "tensors:\n  f.{c}.w: conv.{c} conv.{prev c}\n  g.{c}.w: _ conv.{next c}\n",
        {"f.0.w": (3, 2), "f.4.w": (5, 3), "g.0.w": (2, 5), "g.4.w": (2, 7)},
    )
    assert shown(layout, "f.0.w") == ["0: conv.0 3*2, _ 2*1"]
    assert shown(layout, "f.4.w") == ["0: conv.4 5*3, conv.0 3*1"]
    assert shown(layout, "g.0.w") == ["0: _ 2*5, conv.4 5*1"]
    assert shown(layout, "g.4.w") == ["0: _ 14*1"]


def test_a_word_may_be_part_of_a_dims_name() -> None:
    layout = bound(
        "tensors:\n  '{side:down,up}.{i}.w': x.{side}.{i} x.{side}.{prev i}\n",
        {"down.0.w": (2, 9), "down.1.w": (3, 2), "up.0.w": (4, 9), "up.1.w": (5, 4)},
    )
    assert sizes(layout) == {"x.down.0": 2, "x.down.1": 3, "x.up.0": 4, "x.up.1": 5}


def test_several_still_sides_in_a_row_are_one() -> None:
    layout = bound("tensors:\n  a: (c _ _) _ + _\n  b: c\n", {"a": (24, 5), "b": (2,)})
    assert shown(layout, "a") == ["0: c 2*60, _ 60*1"]
    assert layout.notes == ()


def test_same_as_makes_two_names_one_dim() -> None:
    text = """
        dims:
          b.{i}: same as a.{i}
          a.{i}: same as a.{prev i}
        tensors:
          x.{i}: a.{i} b.{i}
        """
    layout = bound(text, {"x.0": (3, 3), "x.1": (3, 3), "x.5": (3, 3)})
    assert sizes(layout) == {"a.0": 3}
    assert shown(layout, "x.5") == ["0: a.0 3*3, a.0 3*1"]
    assert "dim a.0 is 3 by x.0 axis 0, but 4 by x.5 axis 1" in refusal(text, {"x.0": (3, 3), "x.5": (3, 4)})


def test_a_ring_of_names_is_refused() -> None:
    text = "dims:\n  a: same as b\n  b: same as a\ntensors:\n  x: a b\n"
    assert "dims are the same as one another: a same as b same as a" in refusal(text, {"x": (2, 2)})


def test_the_rule_with_the_fewest_variables_counts() -> None:
    layout = bound(
        """
        dims:
          h.{i}: within g
          h.2: fixed because of the number
          h.{last i}: fixed because it is the last
        tensors:
          x.{i}: (g h.{i})
          z.{i}?: h.{i}
          g: g
        """,
        {"x.0": (6,), "x.2": (6,), "x.4": (6,), "g": (2,)},
    )
    assert {n: (d.owner, d.fixed) for n, d in layout.dims.items()} == {
        "g": (None, None),
        "h.0": ("g", None),
        "h.2": (None, "of the number"),
        "h.4": (None, "it is the last"),
    }


def test_two_rules_of_equal_rank_are_an_error_that_names_both() -> None:
    text = "dims:\n  h.{i}: within g\n  h.{j}: fixed\ntensors:\n  x.{i}: (g h.{i})\n  g: g\n"
    said = refusal(text, {"x.0": (6,), "g": (2,)})
    assert "dim h.0 falls under two rules alike: `h.{i}` (line 2) and `h.{j}` (line 3)" in said


def test_a_chain_of_one_may_be_fixed_as_first_and_as_last() -> None:
    text = "dims:\n  h.{first i}: fixed because a\n  h.{last i}: fixed because b\ntensors:\n  x.{i}: h.{i}\n"
    assert bound(text, {"x.3": (6,)}).dims["h.3"].fixed == "a"


def test_a_rule_may_look_one_further() -> None:
    layout = bound(
        "dims:\n  h.{i+1}: within g.{i}\ntensors:\n  x.{i}: (g.{i} h.{i+1})\n  y: h.0\n",
        {"x.0": (6,), "y": (5,)},
        overrides={"g": 2},
    )
    assert {n: d.owner for n, d in layout.dims.items()} == {"h.0": None, "g.0": None, "h.1": "g.0"}


def test_what_nothing_brings_into_being_is_refused_with_the_line() -> None:
    said = refusal(
        "tensors:\n  a.{i}?: h.{i}\n  b.{i}: _ h.{i-1}\n",
        {"a.0": (2,), "b.3": (4, 4)},
    )
    assert "dim `h.{i-1}` with i = 3 is used, but no tensor brings it into being" in said
    assert "where: test.yaml:3" in said
