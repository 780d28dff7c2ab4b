"""What stands in front of a checkpoint's keys."""

from __future__ import annotations

import pytest

from rebasin_cli.spec.binding.bind import prefix_candidates
from tests.spec.building import bound, refusal, spec_of

TEXT = """
    prefixes: [transformer.]
    tensors:
      wte.weight: _ embed
      h.{i}.w: embed
      lm_head.weight?: _ embed
    """
SHAPES = {"wte.weight": (9, 4), "h.0.w": (4,), "lm_head.weight": (9, 4)}


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "some.thing.else."],
)
def test_a_prefix_before_every_key(prefix: str) -> None:
    layout = bound(TEXT, {prefix + key: shape for key, shape in SHAPES.items()})
    assert layout.prefix == prefix
    assert list(layout.tensors) == [prefix + key for key in SHAPES]
    assert all(tensor.key == key for key, tensor in layout.tensors.items())
    assert layout.users["embed"] == tuple(layout.tensors)


@pytest.mark.parametrize("wrapper", ["", "module.", "module._orig_mod.", "lit."])
def test_a_prefix_of_the_specs_before_some_of_the_keys(wrapper: str) -> None:
    shapes = {
        wrapper + ("" if key == "lm_head.weight" else "transformer.") + key: shape for key, shape in SHAPES.items()
    }
    layout = bound(TEXT, shapes)
    assert layout.prefix == f"{wrapper}transformer."
    assert list(layout.tensors) == list(shapes)
    assert layout.tensors[f"{wrapper}lm_head.weight"].dims() == ("embed",)


def test_a_spec_whose_own_keys_begin_like_a_wrapper() -> None:
    text = "tensors:\n  model.a: h\n  model.b?: h\n"
    assert bound(text, {"model.a": (2,)}).prefix == ""
    assert bound(text, {"model.model.a": (2,), "model.model.b": (2,)}).prefix == "model."


def test_two_keys_never_become_one() -> None:
    spec = spec_of(TEXT)
    keys = ["transformer.h.0.w", "h.0.w", "transformer.wte.weight"]
    assert [str(p) for p in prefix_candidates(spec, keys)] == [""]
    assert "no line speaks of transformer.h.0.w" in refusal(
        TEXT, {"transformer.h.0.w": (4,), "h.0.w": (4,), "wte.weight": (9, 4)}
    )


def test_no_keys_have_no_prefix() -> None:
    assert [str(p) for p in prefix_candidates(spec_of(TEXT), [])] == [""]
    assert "no tensor fits `wte.weight`" in refusal(TEXT, {})


def test_the_likeliest_prefix_explains_a_misfit() -> None:
    said = refusal(TEXT, {"module.wte.weight": (9, 4), "module.h.0.w": (4,), "module.h.0.extra": (4,)})
    assert "no line speaks of h.0.extra [4]" in said
    assert "(1 difference)" in said
