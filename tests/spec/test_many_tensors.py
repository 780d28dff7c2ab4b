"""The calls of our functions for one of many tensors: a count, which is the same on every machine."""

from __future__ import annotations

import contextlib
import sys
from types import FrameType

import pytest

from rebasin_cli.errors import ContentError
from rebasin_cli.spec import detect, shipped_spec, shipped_specs
from rebasin_cli.spec.binding.bind import matcher_for

_MANY = 12_000  # tensors: more than `detect` calls large
_MLP = {"fc.0.weight": (4, 4), "fc.0.bias": (4,), "fc.1.weight": (4, 4), "fc.1.bias": (4,)}
_LLAMA = {
    "model.embed_tokens.weight": (8, 4), "model.norm.weight": (4,), "lm_head.weight": (8, 4),
    **{f"model.layers.0.self_attn.{name}_proj.weight": (4, 4) for name in "qkvo"},
    **{f"model.layers.0.mlp.{name}_proj.weight": (4, 4) for name in ("gate", "up", "down")},
    "model.layers.0.input_layernorm.weight": (4,), "model.layers.0.post_attention_layernorm.weight": (4,),
}  # fmt: skip
_EXPERTS = {
    name.replace("layers.0", f"layers.{i}"): shape
    for i in range(2)
    for name, shape in _LLAMA.items()
    if "mlp" not in name
} | {
    f"model.layers.{i}.block_sparse_moe.{name}": (_MANY // 6, 4) if name == "gate.weight" else (4, 4)
    for i in range(2)
    for name in ("gate.weight", *(f"experts.{e}.w{w}.weight" for e in range(_MANY // 6) for w in (1, 2, 3)))
}


@pytest.mark.parametrize(
    ("shapes", "most"),
    [
        (_MLP | {f"junk.{i}.weight": (1, 1) for i in range(_MANY)}, 10),
        (_MLP | {f"fc.{i}.junk": (1, 1) for i in range(_MANY)}, 15),
        (_LLAMA | {f"model.layers.{i}.junk.weight": (1, 1) for i in range(_MANY)}, 30),
        ({f"fc.{i}.weight": (1, 1) for i in range(_MANY)}, 10),
        (_LLAMA | {f"junk.{i}.weight": (1, 1) for i in range(_MANY)}, 25),
        (_LLAMA | {f"model.layers.{i}.steps": () for i in range(_MANY)}, 15),
        (_MLP | {f"fc.{i}.bias": (1,) for i in range(2, _MANY)}, 45),
        (_EXPERTS, 170),
    ],
    ids=[
        "junk after an MLP",
        "junk in an MLP",
        "junk in layers",
        "an MLP of 12,000 layers",
        "junk after layers",
        "scalars in layers",
        "biases without weights",
        "experts",
    ],
)
def test_the_work_on_one_tensor_is_bounded(shapes: dict[str, tuple[int, ...]], most: int) -> None:
    for name in shipped_specs():
        matcher_for(shipped_spec(name))  # once, for all checkpoints
    _calls(dict([*shapes.items()][:50] + [*shapes.items()][-50:]))  # what is compiled once for every spec
    assert _calls(shapes) < most * len(shapes)


def _calls(shapes: dict[str, tuple[int, ...]]) -> int:
    """The calls of functions and generators of the project while the spec is looked for."""
    count = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        count += event == "call" and "rebasin_cli" in frame.f_code.co_filename

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        with contextlib.suppress(ContentError):
            detect(shapes)
    finally:
        sys.setprofile(before)
    return count
