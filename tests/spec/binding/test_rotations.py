"""Which dims of a layout may be rotated, and what takes up the gains of which norm."""

from __future__ import annotations

from rebasin_cli.spec import Layout
from tests.rotated_networks import TEXTS, rotated_state
from tests.spec.building import bound

SHAPES = {key: tuple(tensor.shape) for key, tensor in rotated_state("layer", 0).items()}


def kinds(layout: Layout) -> dict[str, str]:
    return {dim: layout.dims[dim].rotated for dim in layout.rotated()}


def test_streams_and_heads_have_maps_of_their_kind() -> None:
    inside = {"qk": "invertible", "v": "invertible"}
    layer = bound(TEXTS["layer"], SHAPES, rotations=True)
    assert kinds(layer) == {**inside, "s": "keeps ones"}
    assert kinds(bound(TEXTS["rms"], SHAPES, rotations=True)) == {**inside, "s": "orthogonal"}
    assert kinds(bound(TEXTS["layer"], SHAPES)) == {}
    last = {"last.weight", "last.bias", "head"}
    assert {key for key, gain in layer.norms.items() if gain == "last.weight"} == last
    assert layer.norms.keys() - last == {"norm.weight", "norm.bias", "q", "k", "value", "up"}


def test_signs_and_scales_are_not_found_besides() -> None:
    layout = bound(TEXTS["layer"], SHAPES, rotations=True, scales=True)
    assert layout.scaled() == ()
    assert bound(TEXTS["layer"], SHAPES, scales=True).scaled() == ("qk", "v")
    assert layout.without_rotations().scaled() == ("qk", "v")


def test_a_stream_whose_norm_nothing_reads_is_not_rotated() -> None:
    without = {key: shape for key, shape in SHAPES.items() if key != "head"}
    layout = bound(TEXTS["layer"].replace("head: _ s", "head?: _ s"), without, rotations=True)
    assert kinds(layout).keys() == {"qk", "v"}
    assert layout.norms == {}
    assert any("no tensor of its own takes up last.weight" in note for note in layout.notes)


def test_frozen_dims_and_those_on_two_axes_or_in_bars_are_not_rotated() -> None:
    frozen = bound(TEXTS["layer"], SHAPES, rotations=True, freeze=("s", "qk"))
    assert kinds(frozen) == {"v": "invertible"}
    text = TEXTS["layer"].replace("up: m s", "up: m s\n  square: s s")
    square = bound(text, {**SHAPES, "square": (8, 8)}, rotations=True)
    assert kinds(square).keys() == {"qk", "v"}
    assert any("two axes" in note for note in square.notes)
    barred = bound(TEXTS["layer"].replace("k: h /qk s", "k: h |qk| s"), SHAPES, rotations=True)
    assert "qk" not in kinds(barred)


def test_a_key_that_rotations_exclude_lifts_them() -> None:
    text = TEXTS["layer"].replace("s keeping ones", "s keeping ones without up")
    assert "s" not in kinds(bound(text, SHAPES, rotations=True))


def test_what_a_rotary_embedding_turns_stays_and_has_maps_of_pairs() -> None:
    for pairs in ("halves", "neighbours"):
        layout = bound(TEXTS[pairs], SHAPES, rotations=True)
        assert layout.dims["qk"].rotated == pairs
        assert layout.dims["qk"].owner == "h"
        assert "qk" not in layout.moving()
        assert "rotary" in (layout.dims["qk"].fixed or "")
        sides = [piece.sides[1] for key in "qk" for piece in layout.tensors[key].pieces]
        assert [(side.dim, side.size, side.owner, side.power) for side in sides] == [("qk", 4, 0, -1), ("qk", 4, 0, 1)]


def test_without_rotations_it_is_a_side_without_a_name() -> None:
    plain = bound(
        TEXTS["halves"].replace("qk:width", "_:width").replace("/_", "_").replace("  - qk in halves within h\n", ""),
        SHAPES,
    )
    layout = bound(TEXTS["halves"], SHAPES)
    assert layout.dims == plain.dims
    assert {key: bound_.pieces for key, bound_ in layout.tensors.items()} == {
        key: bound_.pieces for key, bound_ in plain.tensors.items()
    }
    assert layout.spec.sha256 == plain.spec.sha256
    other = bound(TEXTS["neighbours"], SHAPES).spec
    assert layout.spec.rotations_sha256 not in (plain.spec.rotations_sha256, other.rotations_sha256)


def test_it_may_be_frozen_and_stand_in_a_head_that_is_alone() -> None:
    assert "qk" not in kinds(bound(TEXTS["halves"], SHAPES, rotations=True, freeze=("qk",)))
    assert "qk" not in bound(TEXTS["halves"], SHAPES, freeze=("qk",)).dims
    alone = {key: (1, *shape[1:]) if key in "qk" else shape for key, shape in SHAPES.items()}
    alone |= {"value": (5, 8), "o": (8, 5)}
    layout = bound(TEXTS["halves"], alone, rotations=True)
    assert kinds(layout)["qk"] == "halves"
    assert layout.dims["qk"].owner is None
