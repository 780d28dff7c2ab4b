"""Where specs are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_cli.errors import SystemFailure, UsageError, did_you_mean
from rebasin_cli.spec import find_spec, shipped_spec, shipped_specs

TINY = "title: Mine\ntensors:\n  a: h\n"


@pytest.mark.parametrize("name", shipped_specs())
def test_every_shipped_spec_is_read_and_named_after_its_file(name: str) -> None:
    spec = find_spec(name)
    assert spec is shipped_spec(name)
    assert spec.name == name
    assert spec.shipped
    assert spec.title


def test_no_two_shipped_specs_say_the_same() -> None:
    hashes = {shipped_spec(name).sha256: name for name in shipped_specs()}
    assert len(hashes) == len(shipped_specs())


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    for file in ("mine.yaml", "mine.yml", "mine"):
        path = tmp_path / file
        path.write_text(TINY, encoding="utf-8")
        spec = find_spec(str(path))
        assert (spec.name, spec.title, spec.shipped, spec.path) == ("mine", "Mine", False, path)


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TINY, encoding="utf-8")
    before = find_spec(str(path))
    path.write_text(TINY.replace("a: h", "a: h h"), encoding="utf-8")
    assert find_spec(str(path)).sha256 != before.sha256


def test_a_shipped_name_comes_before_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlp").write_text(TINY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert find_spec("mlp").shipped


def test_an_unknown_name_is_met_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="there is no architecture `resnet-basik`") as caught:
        find_spec("resnet-basik")
    assert caught.value.remedy == "did you mean `resnet-basic`?"
    with pytest.raises(UsageError, match="there is no architecture `zzzzzz`") as caught:
        find_spec("zzzzzz")
    assert "arch list" in caught.value.remedy
    assert ".yaml" in caught.value.remedy


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SystemFailure, match=r"cannot read absent\.yaml"):
        find_spec("absent.yaml")


@pytest.mark.parametrize(
    ("word", "question"),
    [
        ("resnet", "did you mean `resnet-basic`, `resnet-bottleneck` or `resnet-option-a`?"),
        ("Llama", "did you mean `llama`?"),
        ("resnet-basik", "did you mean `resnet-basic`?"),
        ("bottleneck", "did you mean `resnet-bottleneck`?"),
        ("resnet50", "did you mean `resnet-basic`, `resnet-bottleneck` or `resnet-option-a`?"),
        ("gpt-2", "did you mean `gpt2`?"),
        ("sd-unet", "did you mean `sd2-unet`, `sdxl-unet` or `sd15-unet`?"),
        ("wings of a dove", ""),
    ],
)
def test_the_obvious_name_is_meant(word: str, question: str) -> None:
    assert did_you_mean(word, shipped_specs()) == question


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("pythia", "did you mean `gpt-neox`? It is for GPT-NeoX and Pythia"),
        ("Mistral", "did you mean `llama-consolidated`, `llama` or `mixtral`?"),
        ("lama", "did you mean `llama`?"),
        ("zzzzzz", "`rebasin arch list` lists"),
    ],
)
def test_an_unknown_architecture_is_searched_in_names_and_titles(name: str, advice: str) -> None:
    with pytest.raises(UsageError, match=f"there is no architecture `{name}`") as failure:
        find_spec(name)
    assert failure.value.remedy.startswith(advice)
