"""`require`: sizes that a spec asks for, which are solved together with the shapes, or refuse a checkpoint."""

from __future__ import annotations

import pytest

from rebasin_cli.errors import ContentError
from rebasin_cli.spec import detect, shipped_spec
from tests.spec.building import bound, sizes

FUSED = """
require:
  - qk = v
  - head > 1
tensors:
  qkv: (head qk) + qk + v _
  out: _ (head v)
"""
EMBED, LAYERS = 48, 2


def test_a_product_on_one_axis_tells_both_of_its_factors() -> None:
    assert sizes(bound(FUSED, {"qkv": (12 + 8, 3), "out": (3, 12)})) == {"head": 3, "qk": 4, "v": 4}


def test_what_is_too_few_is_refused() -> None:
    with pytest.raises(ContentError) as error:
        bound(FUSED, {"qkv": (36, 3), "out": (3, 12)})
    assert "dim head is 1 by out axis 1, and needs to be more" in str(error.value)


def test_what_is_not_equal_is_refused_though_no_factor_is_known() -> None:
    halves = FUSED.replace("  - head > 1\n", "").replace("(head qk) + qk + v _", "(2 head qk) + (head v) _")
    assert bound(halves, {"qkv": (36, 3), "out": (3, 12)}).moving() == ()
    with pytest.raises(ContentError) as error:
        bound(halves, {"qkv": (20, 3), "out": (3, 12)})
    assert "qkv axis 0 has 20 units, its pattern makes 36" in str(error.value)


def decoder(rows: int, *, out_in: bool = True) -> dict[str, tuple[int, ...]]:
    """GPT-2's tensors, with so many rows of `c_attn`; `out_in`: stored as nn.Linear has them."""
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (19, EMBED), "wpe.weight": (16, EMBED)}
    matrices = {"attn.c_attn": (rows, EMBED), "attn.c_proj": (EMBED, EMBED), "mlp.c_fc": (40, EMBED),
                "mlp.c_proj": (EMBED, 40)}  # fmt: skip
    for i in range(LAYERS):
        for name, (outs, ins) in matrices.items():
            shapes[f"h.{i}.{name}.weight"] = (outs, ins) if out_in else (ins, outs)
            shapes[f"h.{i}.{name}.bias"] = (outs,)
        shapes |= {f"h.{i}.ln_{n}.{word}": (EMBED,) for n in (1, 2) for word in ("weight", "bias")}
    return shapes | {"ln_f.weight": (EMBED,), "ln_f.bias": (EMBED,)}


@pytest.mark.parametrize("heads", [2, 4, 6])
def test_all_query_heads_on_one_key_head_are_told_from_gpt2_by_shapes_alone(heads: int) -> None:
    layout = detect(decoder(EMBED + 2 * (EMBED // heads)))
    assert layout.spec.name == "gpt-bigcode"
    assert layout.dims["head.0"].size == heads
    assert layout.notes == ()


@pytest.mark.parametrize("out_in", [True, False])
def test_as_many_key_heads_as_query_heads_are_gpt2(out_in: bool) -> None:
    assert detect(decoder(3 * EMBED, out_in=out_in), config={"n_head": 4}).spec.name == "gpt2"


def test_one_head_is_gpt2() -> None:
    """Both specs would say the same of it."""
    layout = detect(decoder(3 * EMBED), config={"n_head": 1})
    assert layout.spec.name == "gpt2"
    assert layout.dims["head.0"].size == 1


def test_a_model_whose_own_spec_does_not_fit_is_not_taken_for_another_form() -> None:
    """GPT-BigCode with a key head for every query head has nanoGPT's shapes, and its heads are fused otherwise."""
    shapes, config = decoder(3 * EMBED), {"model_type": "gpt_bigcode", "n_head": 4, "multi_query": False}
    with pytest.raises(ContentError) as error:
        detect(shapes, config=config)
    assert error.value.what.startswith("config.json says gpt_bigcode, whose spec does not fit, and `gpt2` fits")
    assert "--arch gpt2" in error.value.remedy
    assert detect(shapes, config=config, specs=[shipped_spec("gpt2")]).spec.name == "gpt2"
