"""Two checkpoints and one spec: who may differ, and in what words the rest is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.counterparts import dims_on_axis
from rebasin_cli.pipeline.layouts import Pair, SpecChoice, bind_models, bind_one, bind_pair, tell_layout
from rebasin_cli.report.document import ArchitectureRecord, SpecOptions
from rebasin_cli.spec import bind, load_spec
from tests.small import mlp_state, save


def llama_state(heads: int = 4, kv: int = 2, head_dim: int = 4, embed: int = 12) -> dict[str, torch.Tensor]:
    sizes = {"q_proj": (heads * head_dim, embed), "k_proj": (kv * head_dim, embed), "v_proj": (kv * head_dim, embed)}
    sizes |= {"o_proj": (embed, heads * head_dim)}
    layer = {f"self_attn.{name}.weight": shape for name, shape in sizes.items()}
    layer |= {
        "mlp.gate_proj.weight": (10, embed),
        "mlp.up_proj.weight": (10, embed),
        "mlp.down_proj.weight": (embed, 10),
    }
    layer |= {"input_layernorm.weight": (embed,), "post_attention_layernorm.weight": (embed,)}
    state = {f"model.layers.0.{name}": torch.randn(shape) for name, shape in layer.items()}
    return {**state, "model.embed_tokens.weight": torch.randn(7, embed), "model.norm.weight": torch.randn(embed)}


def folder_of(path: Path, config: dict[str, object]) -> Path:
    path.mkdir()
    save(path / "model.safetensors", llama_state())
    (path / "config.json").write_text(json.dumps(config))
    return path


def pair_of(a: Path, b: Path, choice: SpecChoice | None = None) -> Pair:
    return bind_pair(open_checkpoint(a), open_checkpoint(b), choice or SpecChoice())


def test_alike_checkpoints_share_a_layout(tmp_path: Path) -> None:
    a, b = (save(tmp_path / f"{seed}.safetensors", mlp_state(seed)) for seed in (0, 1))
    pair = pair_of(a, b)
    assert pair.layout is pair.layout_b
    assert pair.layout.spec.name == "mlp"


def test_a_config_on_one_side_serves_both(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", llama_state())
    b = folder_of(tmp_path / "b", {"model_type": "llama", "num_attention_heads": 4, "hidden_size": 16, "head_dim": 4})
    for pair in (pair_of(tmp_path / "a.safetensors", b), pair_of(b, tmp_path / "a.safetensors")):
        assert pair.layout.dims["kv.0"].size == 2
        assert pair.layout_b.dims["kv.0"].size == 2


def test_other_head_counts_are_refused(tmp_path: Path) -> None:
    config = {"model_type": "llama", "num_attention_heads": 4, "hidden_size": 16}
    a = folder_of(tmp_path / "a", {**config, "head_dim": 4})
    b = folder_of(tmp_path / "b", {**config, "head_dim": 2})
    with pytest.raises(ContentError, match=r"units in A and \d+ in B"):
        pair_of(a, b)


def test_heads_that_cannot_be_sized_are_said(tmp_path: Path) -> None:
    layout = bind_one(open_checkpoint(save(tmp_path / "a.safetensors", llama_state())), SpecChoice("llama"))
    progress = Progress()
    tell_layout(layout, progress)
    assert any("head_dim" in warning and "stay at identity" in warning for warning in progress.warnings)


def test_ignored_tensors_may_differ_in_shape(tmp_path: Path) -> None:
    a = save(tmp_path / "a.safetensors", {**mlp_state(0), "ema.x": torch.zeros(3)})
    b = save(tmp_path / "b.safetensors", {**mlp_state(1), "ema.x": torch.zeros(5), "ema.y": torch.zeros(2)})
    pair = pair_of(a, b, SpecChoice("mlp", ignore=("ema.*",)))
    assert set(pair.layout.tensors) == set(pair.a)
    assert set(pair.b) == {key for key in pair.a if key != "ema.x"}  # of another shape: nothing to read beside A's
    assert set(pair.layout_b.tensors) == {*pair.b, "ema.x", "ema.y"}
    with pytest.raises(ContentError):
        pair_of(a, b, SpecChoice("mlp"))


def test_a_ranked_difference_names_both_shapes(tmp_path: Path) -> None:
    a = save(tmp_path / "a.safetensors", {**mlp_state(0), "fc.0.bias": torch.zeros(8, 1)})
    b = save(tmp_path / "b.safetensors", mlp_state(1))
    with pytest.raises(ContentError, match=r"B fits the spec `mlp`, and A does not: .*\n.*0\.bias has 2 axes \[8, 1\]"):
        pair_of(a, b)


def test_names_that_the_spec_knows_for_one_tensor(tmp_path: Path) -> None:
    a = save(tmp_path / "a.safetensors", mlp_state(0))
    b = save(tmp_path / "b.safetensors", mlp_state(1, prefix="module.fc."))
    pair = pair_of(a, b)
    assert list(pair.b) == list(pair.a)
    assert torch.equal(pair.b["fc.0.bias"], open_checkpoint(b)["module.fc.0.bias"])
    assert set(pair.layout_b.tensors) == set(open_checkpoint(b))


def test_optional_tensors_on_one_side_are_not_matched(tmp_path: Path) -> None:
    without = {key: tensor for key, tensor in mlp_state(0).items() if key != "fc.1.bias"}
    a, b = save(tmp_path / "a.safetensors", without), save(tmp_path / "b.safetensors", mlp_state(1))
    pair = pair_of(a, b)
    assert pair.layout.moving() == ("h.0", "h.1")
    assert pair.only_b == ("fc.1.bias",)
    assert pair.layout_b.tensors["fc.1.bias"].dims() == ("h.1",)
    back = pair_of(b, a)
    assert back.layout.tensors["fc.1.bias"].section == "ignored"
    for found, sides in ((pair, "in B and not in A"), (back, "in A and not in B")):
        assert any(sides in note and "fc.1.bias" in note for note in found.layout.notes)


def test_what_one_of_many_lacks_is_matched_in_none(tmp_path: Path) -> None:
    without = {key: tensor for key, tensor in mlp_state(2).items() if key != "fc.1.bias"}
    states = (mlp_state(0), mlp_state(1), without)
    models = [open_checkpoint(save(tmp_path / f"{i}.safetensors", state)) for i, state in enumerate(states)]
    pairs = bind_models(models, SpecChoice())
    assert [pair.layout for pair in pairs] == [pairs[0].layout] * 2
    assert pairs[0].layout.tensors["fc.1.bias"].section == "ignored"


def test_a_pattern_may_match_in_one_of_the_models(tmp_path: Path) -> None:
    a = save(tmp_path / "a.safetensors", mlp_state(0))
    b = save(tmp_path / "b.safetensors", {**mlp_state(1), "queue": torch.zeros(3, 4)})
    for one, two in ((a, b), (b, a)):
        with pytest.raises(ContentError, match=r"fits but for 1 tensor|does not: "):
            pair_of(one, two)
        assert pair_of(one, two, SpecChoice(ignore=("queue",))).layout.spec.name == "mlp"
    with pytest.raises(UsageError, match="--ignore wings matches no tensor"):
        pair_of(a, b, SpecChoice(ignore=("wings",)))


def test_a_dim_that_one_must_keep_is_kept_in_both(tmp_path: Path) -> None:
    other = {**mlp_state(1), "fc.2.weight": torch.randn(16, 9)}  # reads another number of units than there are
    a, b = save(tmp_path / "a.safetensors", mlp_state(0)), save(tmp_path / "b.safetensors", other)
    for one, two in ((a, b), (b, a)):
        pair = pair_of(one, two, SpecChoice(ignore=("fc.2.*",)))
        assert pair.layout.moving() == ("h.0",)
        assert "another size there" in str(pair.layout.dims["h.1"].fixed)


def test_dims_on_an_axis_are_read_off_the_strides(tmp_path: Path) -> None:
    spec = tmp_path / "s.yaml"
    spec.write_text("tensors:\n  w: (2 h) x + y _\n  u: h\n  v: x\n  t: y\n")
    shapes: dict[str, tuple[int, ...]] = {"w": (6, 9, 5), "u": (3,), "v": (4,), "t": (5,)}
    layout = bind(load_spec(spec), shapes)
    found = [dims_on_axis(layout.tensors["w"], shapes["w"], axis) for axis in range(3)]
    assert found == [("h",), ("x", "y"), ()]


def test_the_choice_of_a_document_is_that_of_its_command() -> None:
    options = SpecOptions({"n_heads": 4}, ("embed",), ("ema.*",))
    record = ArchitectureRecord("mlp", "", "0" * 64, True, options=options)
    assert SpecChoice.of_record(record) == SpecChoice("mlp", {"n_heads": 4}, ("embed",), ("ema.*",))
    own = ArchitectureRecord("own", "", "0" * 64, False, file="/x/own.yaml")
    assert SpecChoice.of_record(own).arch == "/x/own.yaml"
