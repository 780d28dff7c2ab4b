"""Hugging Face folders, made here by transformers and judged here and by a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.evaluation.text import load_masked_text
from tests.cli.conftest import Rebasin
from tests.small import run

WORDS = [f"w{i}" for i in range(40)]
SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def document(rebasin: Rebasin, *arguments: object) -> Any:
    done = rebasin(*arguments)
    assert done.code == 0, done.err
    return done.document


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_tokenizer(folder: Path, vocabulary: list[str], **special: str) -> None:
    """One that knows whole words, the first of them being the unknown one."""
    tokenizers = pytest.importorskip("tokenizers")
    plain = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(vocabulary)}, vocabulary[0])
    )
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library("transformers").PreTrainedTokenizerFast(tokenizer_object=plain, **special).save_pretrained(folder)


def test_many_folders_leave_torch_as_it_was(rebasin: Rebasin, here: Path) -> None:
    """The loader of transformers changes the default type of the whole process for a while."""
    transformers = library("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    for name in ("a", *map(str, range(10))):
        transformers.GPT2LMHeadModel(config).save_pretrained(here / name)
    seed = torch.initial_seed()
    members = document(rebasin, "align", "a", *range(10), "-o", "many", "--threads", 2)["members"]["members"]
    assert len(members) == 10
    try:
        assert torch.get_default_dtype() == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.initial_seed() == seed


def test_a_language_model_of_transformers(rebasin: Rebasin, here: Path) -> None:
    transformers = library("transformers")
    words = WORDS
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            vocab_size=41, n_embd=24, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(config)
        model.save_pretrained(here / str(seed))
        save_tokenizer(here / str(seed), ["?", *words])
    text = np.random.default_rng(0).choice(words, 70)
    (here / "text.txt").write_text(" ".join(text))
    found = document(
        rebasin, "interpolate", "0", "1", "--data", "text.txt", "--sequence-length", 10, "--steps", 3
    )["barrier"]  # fmt: skip
    model = transformers.GPT2LMHeadModel.from_pretrained(here / "1").eval()
    tokens = torch.tensor([words.index(w) + 1 for w in text]).reshape(7, 10)
    with torch.no_grad():
        loss = float(model(input_ids=tokens, labels=tokens).loss)
    assert found["naive"]["loss"][2] == pytest.approx(loss, rel=1e-4)
    assert found["aligned"]["loss"][2] == pytest.approx(loss, rel=1e-4)
    assert found["naive"]["metrics"]["perplexity"][2] == pytest.approx(np.exp(loss), rel=1e-4)
    assert (found["examples"], found["unit"]) == (7, "nats per next token")
    bad = rebasin("interpolate", "0", "1", "--data", "0/model.safetensors", "--steps", 3)
    assert bad.code == 3
    assert "inputs" in bad.err
    (here / "short.txt").write_text("w1")
    short = rebasin("interpolate", "0", "1", "--data", "short.txt", "--steps", 3)
    assert "needs two" in short.err


def test_an_image_classifier_of_transformers(tmp_path: Path) -> None:
    transformers = library("transformers")
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, image_size=8,
            patch_size=4, num_labels=3,
        )  # fmt: skip
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path / str(seed))
    inputs = np.random.default_rng(0).random((9, 3, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "data.npz", inputs=inputs, targets=np.arange(9) % 3)
    done = run("interpolate", "0", "1", "--data", "data.npz", "--steps", 2, cwd=tmp_path)  # transformers is not loaded
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)["barrier"]
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "0").eval()
    with torch.no_grad():
        logits = model(pixel_values=torch.from_numpy(inputs)).logits
    wanted = torch.nn.functional.cross_entropy(logits, torch.arange(9) % 3)
    assert found["naive"]["loss"][0] == pytest.approx(float(wanted), rel=1e-4)


def test_images_are_prepared_as_the_folder_says(rebasin: Rebasin, here: Path) -> None:
    """With its preprocessor_config.json, its label2id, and in the size that it takes."""
    transformers = library("transformers")
    image = pytest.importorskip("PIL.Image")
    names = ["wolf", "bear", "deer"]  # not in sorted order
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, image_size=8,
            patch_size=4, num_labels=3, label2id={n: i for i, n in enumerate(names)}, id2label=dict(enumerate(names)),
            initializer_range=0.5,
        )  # fmt: skip
        transformers.ViTForImageClassification(config).save_pretrained(here / str(seed))
    settings = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 8, "width": 8},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.2], "resample": 2,
    }  # fmt: skip
    (here / "0" / "preprocessor_config.json").write_text(json.dumps(settings))
    colours = np.random.default_rng(0).integers(0, 256, (6, 3))
    for number, colour in enumerate(colours):
        place = here / "photos" / names[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (20, 12), tuple(map(int, colour))).save(place / f"{number}.png")
    pixels = (torch.tensor(colours / 255).float() - torch.tensor([0.5, 0.4, 0.3])) / 0.2
    inputs = pixels[:, :, None, None].expand(6, 3, 8, 8)
    model = transformers.ViTForImageClassification.from_pretrained(here / "0").eval()
    with torch.no_grad():
        wanted = torch.nn.functional.cross_entropy(model(pixel_values=inputs).logits, torch.arange(6) % 3)
    call = ("interpolate", "0", "1", "--data", "photos", "--steps", 2, "--no-align")
    done = rebasin(*call)
    assert done.code == 0, done.err
    found = done.document["barrier"]
    assert found["naive"]["loss"][0] == pytest.approx(float(wanted), rel=1e-3)
    assert found["examples"] == 6
    assert "3 classes, by the names of their folders: 1: bear, 2: deer, 0: wolf" in done.err
    own = document(rebasin, *call, "--image-size", 8, "--normalise", "0.5,0.4,0.3/0.2,0.2,0.2")["barrier"]
    assert own["naive"]["loss"] == pytest.approx(found["naive"]["loss"], rel=1e-3)
    plain = document(rebasin, *call, "--image-size", 8)["barrier"]
    assert plain["naive"]["loss"][0] != pytest.approx(found["naive"]["loss"][0], rel=1e-2)


@pytest.fixture
def berts(here: Path) -> Path:
    """Two tiny masked language models with their tokenizer, and a text."""
    transformers = library("transformers")
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = transformers.BertConfig(
            vocab_size=44, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=16, initializer_range=0.3,
        )  # fmt: skip
        transformers.BertForMaskedLM(config).save_pretrained(here / str(seed))
        save_tokenizer(
            here / str(seed), SPECIAL + WORDS, cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
        )  # fmt: skip
    (here / "text.txt").write_text(" ".join(np.random.default_rng(0).choice(WORDS, 75)))
    return here


def test_a_masked_language_model_of_transformers(rebasin: Rebasin, berts: Path) -> None:
    call = ("interpolate", "0", "1", "--data", "text.txt", "--sequence-length", 12, "--steps", 3)
    found = document(rebasin, *call)["barrier"]
    data = load_masked_text(berts / "text.txt", berts / "0", 12, None, 0)
    with torch.no_grad():
        model = library("transformers").BertForMaskedLM.from_pretrained(berts / "1").eval()
        answer = model(input_ids=data.inputs, labels=data.targets)
    asked = data.targets != -100
    right = (answer.logits.argmax(2) == data.targets)[asked].double().mean()
    for name in ("naive", "aligned"):
        assert found[name]["loss"][2] == pytest.approx(float(answer.loss), rel=1e-4)
        assert found[name]["accuracy"][2] == pytest.approx(float(right))
        assert found[name]["metrics"]["perplexity"][2] == pytest.approx(np.exp(float(answer.loss)), rel=1e-4)
    assert found["naive"]["loss"][1] != pytest.approx(found["aligned"]["loss"][1], rel=1e-3)
    assert (found["examples"], found["unit"]) == (7, "nats per masked token")
    again = document(rebasin, *call, "--no-align")["barrier"]["naive"]
    assert again["loss"] == found["naive"]["loss"]
    other = document(rebasin, *call, "--no-align", "--seed", 1)["barrier"]["naive"]
    assert other["loss"][0] != pytest.approx(found["naive"]["loss"][0], rel=1e-3)


def test_libraries_print_nothing_of_their_own(berts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that has loaded none of them, whose stderr is no terminal."""
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.delenv(name, raising=False)
    line = ("interpolate", "0", "1", "--data", "text.txt", "--no-align", "--steps", 2, "--sequence-length", 8)
    done = run(*line, "--quiet", cwd=berts, PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stderr
    assert b"Loading" not in done.stderr
    assert b"\r" not in done.stderr


def test_what_is_masked_is_asked_for_and_nothing_else(berts: Path) -> None:
    folder, text = berts / "0", berts / "text.txt"
    tokens = [len(SPECIAL) + WORDS.index(word) for word in text.read_text().split()]
    data = load_masked_text(text, folder, 12, None, 0)
    masked = data.inputs == SPECIAL.index("[MASK]")
    assert torch.equal(masked, data.targets != -100)
    assert masked.sum(1).tolist() == [2] * 7  # 15 % of ten words
    restored = torch.where(masked, data.targets, data.inputs)
    assert restored[:, 1:-1].flatten().tolist() == tokens[:70]
    assert set(restored[:, 0].tolist()) == {SPECIAL.index("[CLS]")}
    assert set(restored[:, -1].tolist()) == {SPECIAL.index("[SEP]")}
    assert len(set(map(tuple, masked.tolist()))) > 1  # not the same places everywhere
    few = load_masked_text(text, folder, 12, 3, 0)
    assert torch.equal(few.inputs, data.inputs[:3])
    assert load_masked_text(text, folder, None, None, 0).inputs.shape == (5, 16)  # as long as the model takes


def test_activations_and_repair_work_on_masked_text(rebasin: Rebasin, berts: Path) -> None:
    call = ("interpolate", "0", "1", "--data", "text.txt", "--steps", 3, "--method", "activations")
    found = document(rebasin, *call, "--repair", "repair")
    assert list(found["barrier"]["repaired"]) == ["aligned + repair"]
    assert found["match"]["method"] == "activations"


def test_a_masked_model_without_a_mask_token(rebasin: Rebasin, berts: Path) -> None:
    save_tokenizer(berts / "0", SPECIAL + WORDS)
    done = rebasin("interpolate", "0", "1", "--data", "text.txt")
    assert done.code == 3
    assert "the tokenizer has no mask token" in done.err
