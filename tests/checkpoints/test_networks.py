"""Which network in a file is read, how the others are named, and what lies around it."""

from __future__ import annotations

import argparse
import enum
import shlex
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.errors import ContentError, RebasinError, UsageError


def net(value: float, count: int = 3) -> dict[str, torch.Tensor]:
    return OrderedDict((f"l{i}.weight", torch.full((2,), value)) for i in range(count))


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}

# (what a file holds, the value of the weights that are taken, a part of the notes)
OBVIOUS: dict[str, tuple[Any, float, str]] = {
    "alone": (net(1), 1, ""),
    "with an optimizer": ({"model": net(1), "optimizer": OPTIMIZER}, 1, "left out: optimizer"),
    "under another name": ({"generator": net(1), "optim_g": OPTIMIZER, "epoch": 3}, 1, "'generator'"),
    "with its average": ({"state_dict": net(1), "state_dict_ema": net(2)}, 1, "model.pt:state_dict_ema names it"),
    "average first": ({"ema": net(2), "model": net(1)}, 1, "model.pt:ema names it"),
    "averages of stable diffusion": ({"params_ema": net(2), "params": net(1)}, 1, "model.pt:params_ema names it"),
    "average alone": ({"params_ema": net(2), "epoch": 1}, 2, "'params_ema'"),
    "average of depth": ({"model": {"state_dict": net(1)}, "model_ema": {"state_dict": net(2)}}, 1, "model_ema"),
    "one in a list": ([net(1), 7], 1, "'0'"),
    "beside a score": ({"best": torch.tensor(9.0), "net": net(1, 1)}, 1, "best"),
    "with state in it": ({**net(1), "extra": {"x": torch.zeros(1)}}, 1, "extra (dict)"),
    "beside a loss": ({"model": net(1), "criterion": net(2, 1), "loss": net(2, 1)}, 1, "criterion"),
    "beside another": ({"model": net(1), "discriminator": net(2)}, 1, "model.pt:discriminator"),
    "twice": ((lambda state: {"model": state, "state_dict": state})(net(1)), 1, ""),
    "an ordered mapping": (OrderedDict(model=OrderedDict(module=net(1))), 1, "'module'"),
}


@pytest.mark.parametrize("name", OBVIOUS)
def test_the_obvious_network_is_taken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, value, told = OBVIOUS[name]
    torch.save(content, "model.pt")
    with open_checkpoint(Path("model.pt")) as checkpoint:
        assert checkpoint[next(iter(checkpoint))].flatten()[0] == value
        assert told in "; ".join(checkpoint.notes)


SEVERAL: dict[str, tuple[Any, dict[str, float]]] = {
    "student and teacher": (
        {"student": net(1), "teacher": net(2), "center": torch.zeros(1)}, {"student": 1, "teacher": 2},
    ),
    "two sides": ({"generator": net(1), "discriminator": net(2)}, {"generator": 1, "discriminator": 2}),
    "parts": ({"model": {"encoder": net(1), "decoder": net(2)}}, {"model.encoder": 1, "model.decoder": 2}),
    "a list": ([net(0), net(1), net(2)], {"0": 0, "1": 1, "2": 2}),
    "a list in a mapping": ({"members": [net(0), net(1)]}, {"members.0": 0, "members.1": 1}),
    "numbers": ({0: net(0), 1: net(1)}, {"0": 0, "1": 1}),
    "dots": ({"a.b": net(0), "a": {"c": net(1)}}, {"a.b": 0, "a.c": 1}),
    "spaces": ({"my net": net(0), "other": net(1)}, {"my net": 0, "other": 1}),
    "with averages": (
        {"student": net(1), "teacher": net(2), "student_ema": net(3)}, {"student": 1, "teacher": 2, "student_ema": 3},
    ),
    "two usual names": ({"model": net(1), "net": net(2)}, {"model": 1, "net": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
def test_several_networks_are_named_and_can_be_had(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, choices = SEVERAL[name]
    torch.save(content, "model.pt")
    with pytest.raises(ContentError) as caught:
        open_checkpoint(Path("model.pt"))
    assert all(f"{key} (3 tensors)" in caught.value.what for key in choices)
    advised = [shlex.split(word)[0] for word in caught.value.remedy.removeprefix("name one of them: ").split(", ")]
    assert advised == [f"model.pt:{key}" for key in choices]
    for word, value in zip(advised, choices.values(), strict=True):
        with open_checkpoint(Path(word)) as checkpoint:
            assert checkpoint["l0.weight"][0] == value
            assert checkpoint.address == word
            assert checkpoint.path == Path("model.pt")


def test_a_key_may_name_what_holds_a_network(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"student": {"state_dict": net(1), "epoch": 2}, "teacher": net(2)}, path)
    with open_checkpoint(Path(f"{path}:student")) as checkpoint:
        assert checkpoint["l0.weight"][0] == 1
    with open_checkpoint(Path(f"{path}:student.state_dict")) as checkpoint:
        assert checkpoint["l0.weight"][0] == 1


@pytest.mark.parametrize(
    ("key", "message"),
    [("teachr", "the file has no 'teachr'; it has student"), ("epoch", "'epoch' of the file is no network: it is int"),
     ("args", "is no network: it is argparse.Namespace"), ("9", "has no '9'"), ("student.x", "has no 'student.x'"),
     ("student.l0.weight", "is no network: it is tensor")],
)  # fmt: skip
def test_a_key_that_names_no_network(key: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"student": net(1), "teacher": net(2), "epoch": 1, "args": argparse.Namespace()}, path)
    with pytest.raises(ContentError) as caught:
        open_checkpoint(Path(f"{path}:{key}"))
    assert message in caught.value.what
    assert caught.value.remedy


def test_a_key_for_what_has_one_network(tmp_path: Path) -> None:
    save_file(net(1), tmp_path / "model.safetensors")
    for place in (tmp_path / "model.safetensors", tmp_path):
        with pytest.raises(UsageError, match="has one network") as caught:
            open_checkpoint(Path(f"{place}:teacher"))
        advised = caught.value.remedy.removeprefix("leave the key away: ")
        assert open_checkpoint(Path(advised)).key is None


def test_a_colon_in_a_name_comes_first(tmp_path: Path) -> None:
    torch.save({"teacher": net(1), "student": net(3)}, tmp_path / "a.pt")
    torch.save({"teacher": net(5), "student": net(3)}, tmp_path / "a:b.pt")
    torch.save(net(2), tmp_path / "a.pt:teacher")
    assert open_checkpoint(tmp_path / "a.pt:teacher")["l0.weight"][0] == 2
    assert open_checkpoint(tmp_path / "a.pt:student")["l0.weight"][0] == 3
    assert open_checkpoint(tmp_path / "a:b.pt:teacher")["l0.weight"][0] == 5
    with pytest.raises(RebasinError, match=r"c\.pt:teacher: there is no such file"):
        open_checkpoint(tmp_path / "c.pt:teacher")


# -- head counts ----------------------------------------------------------------------------------------------


class Attributes(dict[str, Any]):
    pass


class Node:  # as omegaconf keeps a value
    def __init__(self, value: Any) -> None:
        self._val = value


class Tree:  # as omegaconf keeps a mapping
    def __init__(self, **content: Any) -> None:
        self._metadata, self._content = object, {key: Node(value) for key, value in content.items()}


Kind = enum.Enum("Kind", {"A": 1}, module=__name__)

CONFIGS: dict[str, dict[str, Any]] = {
    "namespace": {"args": argparse.Namespace(n_heads=4, lr=0.1, kind=Kind.A)},
    "mapping": {"config": {"n_heads": 4}},
    "nanoGPT": {"model_args": {"n_heads": 4}, "config": {"n_layer": 2}},
    "attributes": {"hyper_parameters": Attributes(n_heads=4)},
    "omegaconf": {"cfg": Tree(n_heads=4)},
    "nested": {"hparams": {"model": argparse.Namespace(n_heads=4), "data": {"x": 1}}},
    "deep": {"config": argparse.Namespace(model=argparse.Namespace(decoder={"n_heads": 4}))},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_head_counts_are_a_config(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"model": net(1), **CONFIGS[name]}, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config is not None
    assert checkpoint.config["n_heads"] == 4
    assert checkpoint.config["num_attention_heads"] == 4
    assert "kind" not in checkpoint.config
    assert "head counts were taken from" in checkpoint.notes[-1]
    assert "n_heads=4" in checkpoint.notes[-1]
    (tmp_path / "config.json").write_text('{"n_heads": 2}')
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == {"n_heads": 2}
    assert not any("head counts" in note for note in checkpoint.notes)


@pytest.mark.parametrize("heads", ["nhead", "num_heads", "n_head", "num_attention_heads", "nheads"])
def test_every_usual_name_of_a_head_count(heads: str, tmp_path: Path) -> None:
    torch.save({"model": net(1), "args": argparse.Namespace(**{heads: 8, "d_model": 64})}, tmp_path / "model.pt")
    config = open_checkpoint(tmp_path / "model.pt").config
    assert config is not None
    assert {config[name] for name in ("num_attention_heads", "n_head", "n_heads", "num_heads")} == {8}
    assert config["d_model"] == 64


def test_settings_without_heads_are_no_config(tmp_path: Path) -> None:
    torch.save({"model": net(1), "args": argparse.Namespace(lr=0.1), "heads": {"n_heads": 4}}, tmp_path / "model.pt")
    assert open_checkpoint(tmp_path / "model.pt").config is None


def test_head_counts_that_disagree_are_not_used(tmp_path: Path) -> None:
    torch.save({"model": net(1), "args": {"n_heads": 4}, "config": {"n_heads": 8}}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert checkpoint.config is None
    assert "disagree (args, config)" in checkpoint.notes[-1]


def test_the_nearest_head_count_is_taken(tmp_path: Path) -> None:
    content = {"a": {"model": net(1), "args": {"n_heads": 4}}, "b": {"model": net(2)}, "args": {"n_heads": 8}}
    torch.save(content, tmp_path / "model.pt")
    for key, heads in (("a", 4), ("b", 8)):
        config = open_checkpoint(Path(f"{tmp_path / 'model.pt'}:{key}")).config
        assert config is not None
        assert config["n_heads"] == heads
