"""Reparametrised layers, by rules that hold for every spec."""

from __future__ import annotations

import pytest

from rebasin_cli.errors import ContentError
from rebasin_cli.spec import bind, find_spec
from tests.spec.building import bound, refusal, shown

CHAIN = """
    tensors:
      "{i}.weight": h.{i} h.{prev i}
      "{i}.bias?": h.{i}
    dims:
      h.{last i}: fixed
    """
OLD = {"0.weight_g": (5, 1), "0.weight_v": (5, 4), "0.bias": (5,), "1.weight": (3, 5), "1.bias": (3,)}
NEW = {"0.parametrizations.weight.original0": (5, 1), "0.parametrizations.weight.original1": (5, 4), "1.weight": (3, 5)}


@pytest.mark.parametrize("shapes", [OLD, NEW])
def test_weight_norm(shapes: dict[str, tuple[int, ...]]) -> None:
    layout = bound(CHAIN, shapes)
    length, direction = list(shapes)[:2]
    assert shown(layout, length) == ["0: h.0 5*1"]
    assert shown(layout, direction) == ["0: h.0 5*4, _ 4*1"]
    assert {layout.tensors[key].section for key in shapes} == {"tensors"}


def test_both_weight_norms_have_the_same_names() -> None:
    old, new = bound(CHAIN, OLD), bound(CHAIN, NEW)
    names = [[layout.tensors[key].name for key in list(layout.tensors)[:2]] for layout in (old, new)]
    assert names[0] == names[1] == ["0.weight: length", "0.weight"]


def test_weight_norm_along_the_inputs_or_all_of_it() -> None:
    layout = bound(CHAIN, {**OLD, "1.weight_g": (1, 5), "1.weight_v": (3, 5), "0.weight_g": ()} | {})
    assert shown(layout, "1.weight_g") == ["0: h.0 5*1"]
    assert shown(layout, "0.weight_g") == ["0: "]


@pytest.mark.parametrize(
    ("whole", "left", "right"),
    [
        ("0.weight_orig", "0.weight_u", "0.weight_v"),
        ("0.parametrizations.weight.original", "0.parametrizations.weight.0._u", "0.parametrizations.weight.0._v"),
    ],
)
def test_spectral_norm(whole: str, left: str, right: str) -> None:
    text = 'tensors:\n  "{i}.weight": c.{i} c.{prev i} _ _\n'
    shapes = {whole: (5, 4, 3, 3), left: (5,), right: (36,), "1.weight": (6, 5, 3, 3)}
    layout = bound(text, shapes)
    assert shown(layout, left) == ["0: c.0 5*1"]
    assert shown(layout, right) == ["0: _ 36*1"]
    assert [layout.tensors[key].section for key in (whole, left, right)] == ["tensors", "buffers", "buffers"]
    behind = {"0.weight": (5, 4, 3, 3), whole.replace("0.", "1.", 1): (6, 5, 3, 3), left.replace("0.", "1.", 1): (6,),
              right.replace("0.", "1.", 1): (45,)}  # fmt: skip
    assert shown(bound(text, behind), right.replace("0.", "1.", 1)) == ["0: c.0 5*9, _ 9*1"]


def test_pruning_masks_move_with_their_weights() -> None:
    layout = bound(CHAIN, {"0.weight_orig": (5, 4), "0.weight_mask": (5, 4), "1.weight": (3, 5)})
    assert shown(layout, "0.weight_mask") == shown(layout, "0.weight_orig") == ["0: h.0 5*4, _ 4*1"]
    assert layout.tensors["0.weight_mask"].section == "buffers"
    assert any("pruning" in note for note in layout.notes)


def test_a_bias_that_the_spec_does_not_have_follows_the_output() -> None:
    text = "tensors:\n  c{i}.weight: c.{i} c.{prev i} _ _\n"
    shapes = {"c0.weight": (5, 4, 3, 3), "c0.bias": (5,), "c1.weight": (6, 5, 3, 3)}
    assert shown(bound(text, shapes), "c0.bias") == ["0: c.0 5*1"]
    assert "no line speaks of c0.bias" in refusal(text, {**shapes, "c0.bias": (7,)})


def test_a_batchnorm_that_was_folded_away() -> None:
    shapes = {"conv1.weight": (8, 3, 3, 3), "conv1.bias": (8,), "fc.weight": (10, 16), "fc.bias": (10,)}
    for stage, (before, after) in enumerate(((8, 8), (8, 16)), 1):
        for conv, inputs in ((1, before), (2, after)):
            key = f"layer{stage}.0.conv{conv}"
            shapes |= {f"{key}.weight": (after, inputs, 3, 3), f"{key}.bias": (after,)}
    shapes |= {"layer2.0.downsample.0.weight": (16, 8, 1, 1), "layer2.0.downsample.0.bias": (16,)}
    layout = bind(find_spec("resnet-basic"), shapes)
    assert set(layout.moving()) == {"s.1", "s.2", "in.1.0", "in.2.0"}
    assert any("folded" in note for note in layout.notes)
    bare = {key: shape for key, shape in shapes.items() if key == "fc.bias" or not key.endswith("bias")}
    with pytest.raises(ContentError, match="no tensor fits"):
        bind(find_spec("resnet-basic"), bare)


TURNED = "tensors:\n  emb: _ e\n  up.weight: e m\n  up.bias?: m\n  down.weight: m e\n  down.bias?: e\n  head: _ e\n"


def test_linear_layers_the_other_way_round() -> None:
    shapes = {"emb": (9, 4), "up.weight": (6, 4), "down.weight": (4, 6), "head": (9, 4)}
    layout = bound(TURNED, shapes)
    assert shown(layout, "up.weight") == ["0: m 6*4, e 4*1"]
    assert shown(layout, "down.weight") == ["0: e 4*6, m 6*1"]
    assert shown(layout, "emb") == ["0: _ 9*4, e 4*1"]
    assert any("the other way round" in note for note in layout.notes)
    straight = {"emb": (9, 4), "up.weight": (4, 6), "down.weight": (6, 4), "head": (9, 4)}
    assert not bound(TURNED, straight).notes


def test_a_spelling_has_the_name_of_the_first() -> None:
    text = "tensors:\n  n{i}.{weight|gamma}: h\n  n{i}.{bias|beta}: h\n"
    one = bound(text, {"n0.weight": (3,), "n0.bias": (3,)})
    two = bound(text, {"m.n0.gamma": (3,), "m.n0.beta": (3,)})
    assert [t.name for t in one.tensors.values()] == [t.name for t in two.tensors.values()] == ["n0.weight", "n0.bias"]


def test_wrappers_within_the_keys() -> None:
    text = "tensors:\n  features.{c}.weight: c.{c} c.{prev c} _ _\n  head.weight: _ c.{last c}\n"
    shapes = {"features.module.0.weight": (5, 3, 3, 3), "features.module.2.weight": (6, 5, 3, 3), "head.weight": (2, 6)}
    layout = bound(text, shapes)
    assert layout.tensors["features.module.2.weight"].name == "features.2.weight"
    assert shown(layout, "head.weight") == ["0: _ 2*6, c.2 6*1"]


def test_a_word_in_place_of_a_number_is_named() -> None:
    said = refusal("tensors:\n  blocks.{b}.w: h.{b}\n", {"blocks.0.w": (3,), "blocks.extra.w": (3,)})
    assert "`{b}` is one letter, so it binds a number, and `extra` is a word" in said
