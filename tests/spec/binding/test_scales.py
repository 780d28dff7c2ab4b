"""Which dims of a layout have scales, and by which power these act on each side."""

from __future__ import annotations

from rebasin_cli.spec import Layout
from tests.spec.building import bound, spec_of

TEXT = """
scales:
  - h.{i} before ReLU
tensors:
  "{i}.weight": h.{i} h.{prev i}
  "{i}.bias?": h.{i}
  norm.{i}.{weight,bias}?: h.{i}
buffers:
  norm.{i}.running_var?: h.{i}
"""
PLAIN = {"0.weight": (4, 3), "0.bias": (4,), "1.weight": (5, 4)}


def powers(layout: Layout, key: str) -> dict[str, int]:
    return {side.dim: side.power for piece in layout.tensors[key].pieces for side in piece.sides if side.dim}


def test_what_writes_multiplies_and_what_reads_divides() -> None:
    layout = bound(TEXT, PLAIN, scales=True)
    assert set(layout.scaled()) == {"h.0", "h.1"}
    assert layout.needing_relu() == ["h"]
    assert powers(layout, "0.weight") == powers(layout, "0.bias") == {"h.0": 1}
    assert powers(layout, "1.weight") == {"h.1": 1, "h.0": -1}
    assert bound(TEXT, PLAIN).scaled() == ()


def test_a_norm_takes_the_place_of_the_layer_before_it() -> None:
    norm = {f"norm.0.{name}": (4,) for name in ("weight", "bias", "running_var")}
    layout = bound(TEXT, {**PLAIN, **norm}, scales=True)
    found = {key: powers(layout, key)["h.0"] for key in (*PLAIN, *norm) if key in layout.users["h.0"]}
    assert found == {
        "0.weight": 0, "0.bias": 0, "1.weight": -1, "norm.0.weight": 1, "norm.0.bias": 1, "norm.0.running_var": 0,
    }  # fmt: skip
    without_gains = bound(TEXT, {**PLAIN, "norm.0.running_var": (4,)}, scales=True)
    assert without_gains.scaled() == ("h.1",)


def test_the_bias_tells_the_axis_that_writes() -> None:
    text = "scales:\n  - v\ntensors:\n  v.weight: _ v\n  v.bias: v\n  o.weight: v _\n  o.bias: _\n"
    layout = bound(text, {"v.weight": (3, 4), "v.bias": (4,), "o.weight": (4, 5), "o.bias": (5,)}, scales=True)
    assert [powers(layout, key)["v"] for key in ("v.weight", "v.bias", "o.weight")] == [1, 1, -1]


def test_a_slash_turns_a_scale_round_and_bars_hold_it() -> None:
    text = 'scales:\n  - qk\ntensors:\n  both: qk + /qk _\n  other: "|qk|"\n'
    layout = bound(text, {"both": (8, 3), "other": (4,)}, scales=True)
    assert [side.power for piece in layout.tensors["both"].pieces for side in piece.sides if side.dim] == [1, -1]
    assert powers(layout, "other") == {"qk": 0}


def test_a_dim_on_two_axes_of_a_tensor_has_none() -> None:
    text = "scales:\n  - h\ntensors:\n  in: h _\n  square: h h\n"
    assert bound(text, {"in": (4, 3), "square": (4, 4)}, scales=True).scaled() == ()


def test_scales_have_a_hash_of_their_own() -> None:
    whole = spec_of(TEXT)
    plain = spec_of(TEXT.replace("scales:\n  - h.{i} before ReLU\n", ""))
    assert whole.sha256 == plain.sha256
    assert whole.signs_sha256 == plain.signs_sha256
    assert whole.scales_sha256 != plain.scales_sha256
