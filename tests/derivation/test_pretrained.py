"""Specs derived from a config.json, on small networks of the same code, for checkpoints of real sizes."""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rebasin_cli.derivation.derive import Derivation
from rebasin_cli.derivation.example_inputs import inputs_for
from rebasin_cli.derivation.instances import FileNetwork, answers, saved_shapes, source_of
from rebasin_cli.derivation.pretrained import derive_folder
from rebasin_cli.derivation.shrinking import SCALES, Scale, smaller
from rebasin_cli.derivation.small import UnfitError, judge_of
from rebasin_cli.derivation.soundness import unread_tensors
from rebasin_cli.derivation.surrogate import Exact
from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.libraries import library
from rebasin_cli.spec import Request, bind
from rebasin_cli.spec.binding.layout import Layout
from rebasin_cli.spec.registry import shipped_spec

# model class, config class, what differs from the defaults of the config class, and the shipped spec
MODELS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "GPT-2 124M": ("GPT2LMHeadModel", "GPT2Config", {}, "gpt2"),
    "LLaMA 7B": ("LlamaForCausalLM", "LlamaConfig", {}, "llama"),
    "BERT base": ("BertForMaskedLM", "BertConfig", {}, "bert"),
    "ViT-B/16": ("ViTForImageClassification", "ViTConfig", {"num_labels": 1000}, "vit-hf"),
    "T5 small": ("T5ForConditionalGeneration", "T5Config", {}, "t5"),
    "Mixtral 8x7B": ("MixtralForCausalLM", "MixtralConfig", {}, "mixtral"),
    "CLIP text": ("CLIPTextModel", "CLIPTextConfig", {}, "sd-text-encoder"),
    "CLIP": ("CLIPModel", "CLIPConfig", {}, "clip"),
    "BLOOM 560M": ("BloomForCausalLM", "BloomConfig", {"hidden_size": 1024, "n_layer": 24, "n_head": 16}, "bloom"),
    "SantaCoder": ("GPTBigCodeForCausalLM", "GPTBigCodeConfig", {"n_embd": 2048, "n_head": 16}, "gpt-bigcode"),
}


def shapes_of(name: str, config: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return saved_shapes(getattr(library("transformers"), name)(config))


@lru_cache
def real(name: str, folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]], Derivation]:
    model, config_class, changed, _ = MODELS[name]
    config = getattr(library("transformers"), config_class)(**changed)
    config.architectures = [model]
    config.save_pretrained(folder)
    shapes = shapes_of(model, config)
    return json.loads((folder / "config.json").read_text()), shapes, derive_folder(folder, shapes)


def group(layout: Layout) -> Counter[tuple[int, int | None, tuple[str, ...]]]:
    """Every moving dim: its size, that of the dim it is within, and the tensors that it stands in."""
    sizes = {name: dim.size for name, dim in layout.dims.items()}
    found: Counter[tuple[int, int | None, tuple[str, ...]]] = Counter()
    for name in layout.moving():
        owner = layout.dims[name].owner
        found[sizes[name] or 0, sizes[owner] if owner else None, tuple(sorted(layout.users[name]))] += 1
    return found


@pytest.mark.parametrize("name", list(MODELS))
def test_the_spec_of_a_folder_is_that_of_its_family(name: str, tmp_path: Path) -> None:
    config, shapes, found = real(name, tmp_path)
    assert found.holds, found.proof.describe()
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) > 10_000_000
    derived = bind(found.spec, shapes, Request(config))
    shipped = bind(shipped_spec(MODELS[name][3]), shapes, Request(config))
    assert group(derived) == group(shipped), found.text


def written(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "num_hidden_layers": 32, "intermediate_size": 14336, "vocab_size": 128256,
    "max_position_embeddings": 8192, "bos_token_id": 128000, "eos_token_id": 128001,
}  # fmt: skip


def test_a_class_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="NoSuchModel"):
        derive_folder(written(tmp_path, architectures=["NoSuchModel"], model_type="llama"))
    with pytest.raises(ContentError, match=r"diffusers .* has no model NoSuchModel"):
        derive_folder(written(tmp_path, _class_name="NoSuchModel"))


def test_code_of_the_folder_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit('run')")
    config = {"auto_map": {"AutoConfig": "own.Own"}, "model_type": "own", "architectures": ["LlamaForCausalLM"]}
    with pytest.raises(ContentError, match="never run"):
        derive_folder(written(tmp_path, **config))


def test_a_checkpoint_with_other_tensors_is_refused_first(tmp_path: Path) -> None:
    folder = written(tmp_path, **LLAMA_8B)
    source = source_of(folder)
    with torch.device("meta"):
        shapes = saved_shapes(source.make(source.config))
    shapes["model.layers.0.mlp.adapter.weight"] = (8, 4096)
    told: list[str] = []
    with pytest.raises(ContentError) as error:
        derive_folder(folder, shapes, told=lambda _, what: told.append(what))
    assert "adapter.weight, which the checkpoint has" in error.value.where
    assert "--network" in error.value.remedy
    assert not told


@pytest.mark.parametrize("vocabulary", [100_000, 30], ids=["on small networks", "on the network itself"])
def test_weights_of_other_sizes_than_the_config_are_told_once(tmp_path: Path, vocabulary: int) -> None:
    config = {"n_layer": 1, "n_embd": 24 if vocabulary == 30 else 768, "n_head": 4, "vocab_size": vocabulary}
    folder = written(tmp_path, architectures=["GPT2LMHeadModel"], model_type="gpt2", n_positions=32, **config)
    with torch.device("meta"):
        source = source_of(folder)
        shapes = saved_shapes(source.make(source.config))
    shapes["transformer.h.0.mlp.c_proj.weight"] = (500, config["n_embd"])
    with pytest.raises(ContentError) as caught:
        derive_folder(folder, shapes)
    said = str(caught.value)
    assert said.count("mlp.c_proj.weight axis 0") == said.count("(1 difference)") == 1, said
    assert "config.json has to be that of these weights" in said
    assert "--arch" not in said


@pytest.mark.parametrize(
    ("model", "config", "sizes", "words", "told"),
    [
        ("GPT2LMHeadModel", "GPT2Config", {}, "the shipped spec `gpt2` fits its tensors", True),
        ("ArceeForCausalLM", "ArceeConfig", {"hidden_size": 64, "intermediate_size": 32}, "--max-seconds", False),
    ],
    ids=["a large one of a shipped spec", "a small one of none"],
)
def test_where_time_runs_out_there_is_another_way(
    model: str, config: str, sizes: dict[str, int], words: str, told: bool, tmp_path: Path
) -> None:
    made = getattr(library("transformers"), config)(**sizes, num_hidden_layers=1, vocab_size=900)
    made.architectures = [model]
    made.save_pretrained(tmp_path)
    heard: list[str] = []
    with pytest.raises(ContentError, match="on a smaller network") as caught:
        derive_folder(tmp_path, seconds=0.0, told=lambda _, what: heard.append(what))
    assert words in caught.value.remedy
    assert any("the shipped spec `gpt2` fits" in what for what in heard) is told


@pytest.mark.parametrize("scale", SCALES[0], ids=["derived on", "confirming"])
def test_sizes_that_may_differ_are_small_and_differ(scale: Scale) -> None:
    small = smaller(LLAMA_8B, scale)
    names = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    sizes = [small[name] for name in names]
    assert len(set(sizes)) == len(sizes)
    assert max(sizes) < 100
    assert small["hidden_size"] % small["num_attention_heads"] == 0
    assert small["num_attention_heads"] % small["num_key_value_heads"] == 0
    assert max(small["bos_token_id"], small["eos_token_id"]) < small["vocab_size"]


def test_sizes_that_are_equal_stay_equal() -> None:
    config = {"hidden_size": 512, "word_embed_proj_dim": 512, "num_attention_heads": 8, "num_key_value_heads": 8}
    small = smaller(config, SCALES[0][0])
    assert small["hidden_size"] == small["word_embed_proj_dim"]
    assert small["num_attention_heads"] == small["num_key_value_heads"]


def test_every_kind_of_layer_is_kept() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    small = smaller({"num_hidden_layers": 24, "layer_types": kinds * 4}, SCALES[0][0])
    assert small["layer_types"] == ["sliding_attention", "full_attention"] * 2
    assert small["num_hidden_layers"] == 4


def test_lists_stay_as_long_as_their_stack() -> None:
    """As those of Wav2Vec2."""
    config = {"num_feat_extract_layers": 7, "conv_dim": [512] * 7, "conv_stride": [5, *[2] * 6], "num_layers": 12}
    small = smaller(config, SCALES[0][0])
    assert small["conv_stride"] == [5, 2] * 2
    assert len(set(small["conv_dim"])) == 1
    assert len(small["conv_dim"]) == small["num_feat_extract_layers"] == 4
    config = {"num_layers": 3, "depths": [2, 2, 6], "num_heads": [3, 6, 12]}  # stages
    assert smaller(config, SCALES[0][0])["num_layers"] == 3


@pytest.mark.parametrize("scale", SCALES[1], ids=["derived on", "confirming"])
def test_heads_stay_on_twice_the_hidden_size(scale: Scale) -> None:
    """As those of Mamba 2."""
    small = smaller({"hidden_size": 4096, "expand": 2, "num_heads": 128, "head_dim": 64, "n_groups": 8}, scale)
    assert small["num_heads"] * small["head_dim"] == 2 * small["hidden_size"]
    assert 1 < small["n_groups"] < small["num_heads"]
    assert small["num_heads"] % small["n_groups"] == 0


@pytest.mark.parametrize("scale", SCALES[0], ids=["derived on", "confirming"])
def test_experts_stay_in_groups(scale: Scale) -> None:
    """As those of DeepSeek V3: they may not be exchanged between groups."""
    config = {"n_routed_experts": 256, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8}
    small = smaller({**config, "num_hidden_layers": 61, "first_k_dense_replace": 3}, scale)
    assert small["n_routed_experts"] % small["n_group"] == 0
    assert small["topk_group"] < small["n_group"] < small["n_routed_experts"]
    assert 0 < small["first_k_dense_replace"] < small["num_hidden_layers"]


def test_several_ends_stay_in_the_vocabulary() -> None:
    config = {"vocab_size": 151552, "eos_token_id": [151329, 151336], "pad_token_id": 151329}
    small = smaller(config, SCALES[0][0])
    assert small["eos_token_id"] == [17, 18]
    assert small["pad_token_id"] == 17
    ids = next(inputs_for(Takes(), small, 0))["input_ids"]
    assert set(ids[:, -1].tolist()) == {17}
    assert ids[:, :-1].max() < 17


class Takes(torch.nn.Module):
    def forward(self, input_ids: Any, pixel_values: Any, input_values: Any) -> None:
        """Only its parameters are looked at."""


def test_images_and_sounds_need_no_size_in_a_config() -> None:
    inputs = next(inputs_for(Takes(), {"num_channels": 2, "conv_stride": [5, 2]}, 0))
    assert inputs["pixel_values"].shape[1:] == (2, 64, 64)
    assert inputs["input_values"].shape[1:] == (120,)
    spectrogram = next(inputs_for(Takes(), {"num_mel_bins": 7, "max_length": 9}, 0))["input_values"]
    assert spectrogram.shape[1:] == (9, 7)


def test_running_statistics_of_a_folder_are_moved(tmp_path: Path) -> None:
    """They are those that the model works with, and no copies that its outputs do not depend on."""
    sizes = {"embedding_size": 8, "hidden_sizes": [12], "depths": [1], "layer_type": "basic"}
    folder = written(tmp_path, architectures=["ResNetForImageClassification"], model_type="resnet", **sizes)
    found = derive_folder(folder)
    assert found.holds
    assert not found.unread
    running = {key for key in found.proof.layout.tensors if "running_" in key}
    assert running == {key for dim in found.proof.layout.moving() for key in found.proof.layout.users[dim]} & running
    assert running


def test_stages_of_a_folder_may_be_longer(tmp_path: Path) -> None:
    """Each has a stream of its own, whose first layer reads that of the stage before."""
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [3, 2, 5], "layer_type": "basic"}
    found = derive_folder(
        written(tmp_path, architectures=["ResNetForImageClassification"], model_type="resnet", **sizes)
    )
    assert found.holds
    assert found.bound is not None
    sizes_of = Counter(found.bound.dims[name].size for name in found.bound.moving())
    assert sizes_of == {16: 1 + 3, 32: 1 + 2, 64: 1 + 5}  # the first stage has no shortcut: its stream is the stem's
    assert (
        "encoder.stages.{i}.layers.{j}.layer.0.convolution.weight: layer_convolution.{i}.{j}.0 stages.{i}" in found.text
    )
    assert "embedder.embedder.convolution.weight: embedder_convolution _" in found.text


@pytest.mark.parametrize(("heads", "small"), [([1, 2, 5, 8], [1, 2, 5, 8]), ([3, 6, 12, 24], [3, 6, 12, 24])])
def test_stages_keep_their_ratios(heads: list[int], small: list[int]) -> None:
    """A stage with one head has one in the small network, too: that of Segformer and PVT."""
    config = {"num_attention_heads": heads, "hidden_sizes": [32 * n for n in heads], "depths": [2, 2, 18, 2]}
    made = smaller(config, SCALES[0][0])
    assert made["num_attention_heads"] == small
    assert made["hidden_sizes"] == [4 * n for n in small]
    assert made["depths"] == [2, 2, 2, 2]
    assert smaller(config, SCALES[0][1])["depths"] == [2, 2, 3, 2]


def test_what_a_model_draws_is_the_same_in_every_run() -> None:
    """As the patches that a ViT of masked autoencoders hides."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 5}
    decoder = {f"decoder_{name}": size for name, size in sizes.items()}
    config = library("transformers").ViTMAEConfig(**sizes, **decoder, image_size=16, patch_size=4)
    network = FileNetwork(library("transformers").ViTMAEForPreTraining(config))
    before = torch.random.get_rng_state()
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(network(pixel_values=images)["logits"], network(pixel_values=images)["logits"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_tensors_for_tokens_that_attend_to_all_are_read() -> None:
    """Longformer has further queries, keys and values for them: copied, they would not fit a stream that moves."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 5}
    config = library("transformers").LongformerConfig(**sizes, vocab_size=17, attention_window=[4])
    judge = judge_of(FileNetwork(library("transformers").LongformerForMaskedLM(config)), config.to_dict(), 0)
    read = set(judge.shapes) - set(unread_tensors(judge))
    assert {key for key in judge.shapes if "global.weight" in key} <= read


class Pooled(torch.nn.Module):
    """With a pooler that runs and is no part of the answer, or a tower that runs where there are images."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(9, 6)
        self.add_module(part, torch.nn.Linear(6, 6))

    def forward(self, input_ids: Any, images: Any = None) -> Any:
        hidden = self.embed(input_ids)
        if hasattr(self, "pooler"):
            self.pooler(hidden)
        return hidden if images is None else hidden + self.tower(images)


def test_matrices_that_no_known_inputs_read_refuse_a_folder() -> None:
    """A vision tower writes into the stream of the text, whether or not there are images."""
    judge_of(FileNetwork(Pooled("pooler")), {"vocab_size": 9}, 0)
    with pytest.raises(UnfitError, match=r"do not depend on tower\.weight with the inputs that are known"):
        judge_of(FileNetwork(Pooled("tower")), {"vocab_size": 9}, 0)


def test_all_that_is_no_inner_state_is_an_answer() -> None:
    """As the boxes of a detector beside its classes: a head that no answer reads would be copied as it is."""
    said = dict.fromkeys(["logits", "pred_boxes", "last_hidden_state", "encoder_last_hidden_state", "mems"], 0)
    assert set(answers(said)) == {"logits", "pred_boxes"}
    del said["logits"]
    assert set(answers(said)) == {"pred_boxes", "last_hidden_state"}


def test_experts_have_the_names_and_the_form_of_files(tmp_path: Path) -> None:
    sizes = {"hidden_size": 12, "intermediate_size": 7, "num_attention_heads": 3, "num_key_value_heads": 3}
    config = library("transformers").MixtralConfig(
        **sizes, num_hidden_layers=1, vocab_size=19, num_local_experts=3, num_experts_per_tok=2
    )
    torch.manual_seed(0)
    model = library("transformers").MixtralForCausalLM(config).double().eval()
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    network = FileNetwork(model)
    found = network.state_dict()
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in stored.items())
    tokens = torch.arange(12)[None]
    with torch.no_grad(), Exact():
        before = network(input_ids=tokens)["logits"]
        torch.testing.assert_close(before, model(input_ids=tokens).logits)
        found["model.layers.0.block_sparse_moe.experts.1.w2.weight"].mul_(2)
        assert not torch.equal(network(input_ids=tokens)["logits"], before)


def test_a_stack_is_longer_than_in_the_small_network(tmp_path: Path) -> None:
    """What reads the last of Wav2Vec2's convolutions reads the seventh there, and the sixth in the small one."""
    sizes = {"hidden_size": 24, "intermediate_size": 20, "num_attention_heads": 3, "num_hidden_layers": 4}
    config = library("transformers").Wav2Vec2Config(**sizes, num_conv_pos_embedding_groups=4)
    config.architectures = ["Wav2Vec2ForCTC"]
    config.save_pretrained(tmp_path)
    found = derive_folder(tmp_path)
    assert found.holds
    assert found.bound is not None
    users = found.bound.users["conv.6"]
    assert "feature_extractor.conv_layers.6.conv.weight" in users
    assert "feature_projection.projection.weight" in users
    assert "projection.weight: (embed projection) conv.{last i}" in found.text
