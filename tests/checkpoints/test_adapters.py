"""Adapters (LoRA) are told from networks, and the line that merges one works."""

from __future__ import annotations

import json
import shlex
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.libraries import library

WORLDS = {
    "peft": ["base_model.model.layers.0.q_proj.lora_A.weight", "base_model.model.layers.0.q_proj.lora_B.weight"],
    "peft with a head": [
        "base_model.model.score.weight", "base_model.model.l.lora_A.weight", "base_model.model.l.lora_B.weight",
    ],
    "kohya": ["lora_unet_mid_to_q.lora_down.weight", "lora_unet_mid_to_q.lora_up.weight", "lora_unet_mid_to_q.alpha"],
    "diffusers": ["unet.mid.to_q.lora.down.weight", "unet.mid.to_q.lora.up.weight"],
    "older diffusers": ["unet.p.to_q.lora_linear_layer.down.weight", "unet.p.to_q.lora_linear_layer.up.weight"],
    "lokr": ["lora_unet_mid.lokr_w1", "lora_unet_mid.lokr_w2_a", "lora_unet_mid.alpha"],
}  # fmt: skip


@pytest.mark.parametrize("world", WORLDS)
def test_adapters_of_every_world_are_told(world: str, tmp_path: Path) -> None:
    file = tmp_path / "some.safetensors"
    save_file({name: torch.ones(2) for name in WORLDS[world]}, file)
    with pytest.raises(ContentError, match=r"this is an adapter \(LoRA\), and not a network") as caught:
        open_checkpoint(file)
    assert ("adapter_config.json" if "peft" in world else "fuse_lora") in caught.value.remedy


def test_a_network_beside_its_adapters_is_one(tmp_path: Path) -> None:
    names = ["a.base_layer.weight", "a.base_layer.bias", "a.lora_A.weight", "a.lora_B.weight"]
    save_file({name: torch.ones(2) for name in names}, tmp_path / "a.safetensors")
    assert len(open_checkpoint(tmp_path / "a.safetensors")) == 4


def test_a_folder_with_a_network_beside_a_config_is_one(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert list(open_checkpoint(tmp_path)) == ["w"]


@pytest.mark.parametrize("config", ["[]", "{", json.dumps({"base_model_name_or_path": 3, "task_type": ["x"]})])
def test_a_damaged_config_is_no_obstacle(config: str, tmp_path: Path) -> None:
    save_file({"x.lora_A.weight": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(ContentError, match=r"an adapter \(LoRA\), and not") as caught:
        open_checkpoint(tmp_path)
    assert "AutoPeftModel as M" in caught.value.remedy


def test_the_line_that_merges_one_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = library("transformers")
    peft = pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16, n_positions=8)
    transformers.GPT2LMHeadModel(config).save_pretrained("its base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lora = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"], r=2, init_lora_weights=False)
        base = transformers.AutoModelForCausalLM.from_pretrained("its base")
        peft.get_peft_model(base, lora).save_pretrained("one's own")
        for path in (tmp_path / "one's own", tmp_path / "one's own" / "adapter_model.safetensors"):
            with pytest.raises(ContentError, match=r"an adapter \(LORA\) of its base, and not a network") as caught:
                open_checkpoint(path)
            command, option, code = shlex.split(caught.value.remedy.partition("merged: ")[2])
            assert (command, option) == ("python", "-c")
        exec(code, {})
    merged, before = open_checkpoint(Path("merged")), load_file("its base/model.safetensors")
    name = "transformer.h.0.attn.c_attn.weight"
    assert merged.infos.keys() == before.keys()
    assert not torch.equal(merged[name], before[name])
