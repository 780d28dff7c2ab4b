"""Which line claims which tensor, and what is left over on either side."""

from __future__ import annotations

from rebasin_cli.spec.binding.claims import Matcher, Shape, claim_tensors
from rebasin_cli.spec.binding.left_over import missing_tensors
from rebasin_cli.spec.language.permutation_spec import Fault
from rebasin_cli.spec.language.template import skeletons_by_key
from tests.spec.building import spec_of


def claimed(text: str, shapes: dict[str, Shape]) -> tuple[dict[str, str], list[Fault]]:
    """The template that claims each key, and the faults."""
    claims, faults = claim_tensors(Matcher(spec_of(text)), shapes, skeletons_by_key(shapes))
    return {key: claim.line.template.text for key, claim in claims.items()}, faults


def missing(text: str, shapes: dict[str, Shape]) -> list[Fault]:
    spec = spec_of(text)
    claims, faults = claim_tensors(Matcher(spec), shapes, skeletons_by_key(shapes))
    assert faults == []
    return missing_tensors(spec, claims, skeletons_by_key(shapes))


def test_the_fewest_variables_win_across_sections() -> None:
    found, faults = claimed(
        """
        tensors:
          layer{s}.{b}.w: a
          layer{s}.0.w: b
          layer1.0.w: c
        buffers:
          layer2.{b}.w: d
        ignored:
          - "*.w"
        """,
        {"layer3.1.w": (1,), "layer3.0.w": (1,), "layer1.0.w": (1,), "layer2.4.w": (1,), "other.w": (1,)},
    )
    assert faults == []
    assert found == {
        "layer3.1.w": "layer{s}.{b}.w",
        "layer3.0.w": "layer{s}.0.w",
        "layer1.0.w": "layer1.0.w",
        "layer2.4.w": "layer2.{b}.w",
        "other.w": "*.w",
    }


def test_two_lines_of_equal_rank_are_an_error_that_names_both() -> None:
    found, (fault,) = claimed(
        """
        tensors:
          layer{s}.0.w: a
          layer1.{b}.w: a
        """,
        {"layer1.0.w": (1,), "layer2.0.w": (1,)},
    )
    assert found == {"layer2.0.w": "layer{s}.0.w"}
    assert "layer1.0.w is claimed by two lines alike" in fault.what
    assert "`layer{s}.0.w` (line 2)" in fault.what
    assert "`layer1.{b}.w` (line 3)" in fault.what
    assert "more specific" in fault.remedy


def test_a_line_of_equal_rank_in_another_section_is_no_better() -> None:
    _, (fault,) = claimed(
        "tensors:\n  '{side:a,b}.w': x\nignored:\n  - '{part}.w'\n",
        {"a.w": (3,)},
    )
    assert "`{side:a,b}.w` (line 2) and `{part}.w` (line 4)" in fault.what


def test_a_line_matches_only_its_number_of_axes() -> None:
    text = """
        tensors:
          f.{c}.w: conv.{c} _ _ _
          f.{c}.w?: norm.{c}
        """
    found, faults = claimed(text, {"f.0.w": (2, 3, 3, 3), "f.1.w": (2,)})
    assert faults == []
    assert found == {"f.0.w": "f.{c}.w", "f.1.w": "f.{c}.w?"}
    _, (fault,) = claimed(text, {"f.0.w": (2, 3)})
    assert fault.what == "f.0.w has 2 axes [2, 3], its line `f.{c}.w: conv.{c} _ _ _` has 4"
    assert fault.line == 2


def test_a_tensor_without_axes_has_the_empty_pattern() -> None:
    found, faults = claimed("tensors:\n  scale:\n  a: h\n", {"scale": (), "a": (2,)})
    assert (found, faults) == ({"scale": "scale", "a": "a"}, [])


VGG = """
    tensors:
      features.{c}.weight: conv.{c} conv.{prev c} _ _
      features.{c}.bias?: conv.{c}
      features.{c+1}.{weight,bias}?: conv.{c}
    """


def test_dims_of_weights_decide_between_two_lines() -> None:
    found, faults = claimed(
        VGG,
        {
            "features.0.weight": (4, 3, 3, 3),
            "features.0.bias": (4,),
            "features.1.weight": (4,),
            "features.1.bias": (4,),
            "features.3.weight": (4, 4, 3, 3),
            "features.3.bias": (4,),
            "features.4.weight": (4,),
            "features.4.bias": (4,),
        },
    )
    assert faults == []
    assert found["features.0.bias"] == found["features.3.bias"] == "features.{c}.bias?"
    assert found["features.1.bias"] == found["features.4.bias"] == "features.{c+1}.bias?"
    assert found["features.4.weight"] == "features.{c+1}.weight?"


def test_a_vgg_whose_convolutions_touch_each_other() -> None:
    """`features.1.bias` could be a normalisation after 0 or convolution 1's own: `{c}` comes before `{c+1}`."""
    found, faults = claimed(
        VGG,
        {
            "features.0.weight": (4, 3, 3, 3),
            "features.0.bias": (4,),
            "features.1.weight": (4, 4, 3, 3),
            "features.1.bias": (4,),
        },
    )
    assert faults == []
    assert found["features.1.bias"] == "features.{c}.bias?"


def test_first_and_last_are_those_of_one_kind_of_tensor() -> None:
    found, faults = claimed(
        """
        tensors:
          c.{first d}.w: fc.{d} _
          c.{d}.w: fc.{d} fc.{prev d}
          c.{last d}.w: _ fc.{prev d}
          b.{s}.{first d}.w: x.{s}.{d}
          b.{s}.{d}.w: x.{s}.{d}
        """,
        {
            "c.2.w": (3, 3), "c.10.w": (3, 3), "c.4.w": (3, 3), "c.0.w": (3, 3),
            "b.0.7.w": (1,), "b.0.9.w": (1,), "b.1.8.w": (1,),
        },
    )  # fmt: skip
    assert faults == []
    assert found == {
        "c.0.w": "c.{first d}.w",
        "c.2.w": "c.{d}.w",
        "c.4.w": "c.{d}.w",
        "c.10.w": "c.{last d}.w",
        "b.0.7.w": "b.{s}.{first d}.w",
        "b.0.9.w": "b.{s}.{d}.w",
        "b.1.8.w": "b.{s}.{first d}.w",
    }


def test_an_unclaimed_tensor_names_the_nearest_lines() -> None:
    _, (fault,) = claimed("tensors:\n  layer{s}.conv1.weight: a\n  fc.bias: b\n", {"layer2.conf1.weight": (3, 4)})
    assert fault.what == "no line speaks of layer2.conf1.weight [3, 4]"
    assert fault.remedy == "the nearest are `layer{s}.conv1.weight` (line 2)"
    assert fault.line == 2
    _, (far,) = claimed("tensors:\n  layer{s}.conv1.weight: a\n", {"zzz": (3,)})
    assert (far.line, far.remedy) == (0, "")


BLOCKS = """
    tensors:
      stem.w: a
      layer{s}.{b}.{bn|norm}.w: a
      layer{s}.{b}.{bn|norm}.b: a
      layer{s}.{b}.c.w: a
      layer{s}.{b}.extra?: a
      layer{s}.0.down.w: a
      head.w?: a
    """


def block(s: int, b: int, norm: str = "bn") -> dict[str, Shape]:
    keys = [f"{norm}.w", f"{norm}.b", "c.w", *(["down.w"] if b == 0 else [])]
    return {f"layer{s}.{b}.{key}": (2,) for key in keys}


def test_nothing_is_missing_from_a_complete_checkpoint() -> None:
    assert missing(BLOCKS, {"stem.w": (2,)} | block(1, 0) | block(1, 1) | block(2, 0)) == []
    assert missing(BLOCKS, {"stem.w": (2,)} | block(1, 0, "norm") | block(2, 0, "norm")) == []


def test_a_line_that_fits_nothing_is_named() -> None:
    (fault,) = missing(BLOCKS, block(1, 0))
    assert (fault.what, fault.line) == ("no tensor fits `stem.w`", 2)


def test_a_family_needs_one_of_its_words() -> None:
    shapes = {"stem.w": (2,)} | block(1, 0)
    del shapes["layer1.0.bn.b"]
    (fault,) = missing(BLOCKS, shapes)
    assert (fault.what, fault.line) == ("no tensor fits `layer{s}.{b}.{bn|norm}.b`", 4)


def test_single_missing_keys_are_named_with_a_neighbour() -> None:
    shapes = {"stem.w": (2,)} | block(1, 0) | block(1, 1) | block(2, 0)
    del shapes["layer1.1.bn.b"]
    (fault,) = missing(BLOCKS, shapes)
    assert fault.what == "layer1.1.bn.b is absent, although layer1.1.bn.w is there"
    assert fault.line == 4


def test_a_key_missing_in_the_first_block_only_is_named_too() -> None:
    shapes = {"stem.w": (2,)} | block(1, 0) | block(1, 1)
    del shapes["layer1.0.c.w"]
    assert [p.what for p in missing(BLOCKS, shapes)] == ["layer1.0.c.w is absent, although layer1.0.bn.w is there"]


def test_an_ignored_tensor_is_not_missing() -> None:
    spec = spec_of(BLOCKS)
    shapes = {"stem.w": (2,)} | block(1, 0)
    some = {k: s for k, s in shapes.items() if k != "layer1.0.c.w"}
    claims, _ = claim_tensors(Matcher(spec), some, skeletons_by_key(some))
    assert missing_tensors(spec, claims, skeletons_by_key(shapes)) == []


def test_the_quick_screen_counts_kinds_of_keys() -> None:
    matcher = Matcher(spec_of(BLOCKS))
    assert matcher.coverage(block(1, 0) | block(7, 3)) == 1.0
    assert matcher.coverage(block(1, 0) | {"x.1": (2,), "x.2": (2,)}) == 4 / 5
    assert matcher.coverage({"layer1.0.c.w": (2, 2)}) == 0.0
    assert matcher.coverage({}) == 0.0
