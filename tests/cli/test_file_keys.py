"""`FILE:KEY` on the command line: one of several networks in a file, wherever a checkpoint is named."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Rebasin
from tests.small import mlp_state, save_data


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.pth and b.pth with a student and a teacher, ema_a.pth and ema_b.pth with an average, and data.npz."""
    for number, name in enumerate("ab"):
        one, two = mlp_state(2 * number), mlp_state(2 * number + 1)
        torch.save({"student": one, "teacher": two, "epoch": 3}, tmp_path / f"{name}.pth")
        torch.save({"state_dict": one, "state_dict_ema": two}, tmp_path / f"ema_{name}.pth")
    save_data(tmp_path / "data.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _state(name: str, key: str) -> Any:
    return torch.load(name, weights_only=True)[key]


def test_aligning_a_network_of_a_file(rebasin: Rebasin, files: Path) -> None:
    done = rebasin("align", "a.pth:teacher", "b.pth:student")
    assert done.code == 0, done.err
    assert done.document["inputs"]["a"]["path"] == f"{files}/a.pth:teacher"
    assert done.document["inputs"]["b"] == {
        "path": f"{files}/b.pth:student",
        "sha256": hashlib.sha256(Path("b.pth").read_bytes()).hexdigest(),
        "key": "student",
    }
    made = {path.name for path in files.iterdir()} - {"a.pth", "b.pth", "ema_a.pth", "ema_b.pth", "data.npz"}
    assert made == {f"b.student{end}" for end in (".aligned.safetensors", ".permutation.safetensors", ".rebasin.json")}
    aligned, student = load_file("b.student.aligned.safetensors"), _state("b.pth", "student")
    assert list(aligned) == list(student)
    assert torch.equal(aligned["fc.0.bias"].sort().values, student["fc.0.bias"].sort().values)
    assert not torch.equal(aligned["fc.0.bias"], student["fc.0.bias"])


def test_the_next_command_in_a_pipe_reads_the_same_network(rebasin: Rebasin, files: Path) -> None:
    aligned = rebasin("align", "a.pth:teacher", "b.pth:student")
    piped = rebasin("interpolate", "--data", "data.npz", "--steps", "3", stdin=aligned.out.encode())
    assert piped.code == 0, piped.err
    assert {role: entry["path"] for role, entry in piped.document["inputs"].items() if role in "ab"} == {
        "a": f"{files}/a.pth:teacher", "b": f"{files}/b.pth:student",
    }  # fmt: skip
    direct = rebasin("interpolate", "a.pth:teacher", "b.pth:student", "--data", "data.npz", "--steps", "3")
    assert piped.document["barrier"]["naive"] == direct.document["barrier"]["naive"]
    assert piped.document["barrier"]["aligned"]["loss"] == direct.document["barrier"]["aligned"]["loss"]
    other = rebasin("interpolate", "a.pth:student", "b.pth:student", "--data", "data.npz", "--steps", "3")
    assert other.document["barrier"]["naive"] != direct.document["barrier"]["naive"]


def test_two_networks_of_a_file_are_not_taken_for_one(rebasin: Rebasin, files: Path) -> None:
    sweep = ("--data", "data.npz", "--steps", "3", "--resume", "run.json")
    assert rebasin("interpolate", "a.pth:teacher", "b.pth:student", *sweep).code == 0
    other = rebasin("interpolate", "a.pth:student", "b.pth:student", *sweep)
    assert other.code == 2
    assert "of another sweep: it differs in A" in other.err
    rebasin("align", "a.pth:teacher", "b.pth:student")
    foreign = rebasin(
        "interpolate", "a.pth:student", "b.pth:student", "--permutation", "b.student.permutation.safetensors"
    )
    assert foreign.code == 0
    assert "was made for another A" in foreign.err


def test_every_command_takes_a_key(rebasin: Rebasin, files: Path) -> None:
    rebasin("align", "a.pth:teacher", "b.pth:teacher")
    for command in (
        "inspect a.pth:teacher",
        "arch check mlp a.pth:teacher",
        "arch show mlp a.pth:teacher",
        "merge a.pth:student a.pth:teacher b.pth:student -o merged.safetensors",
        "apply b.teacher.permutation.safetensors b.pth:teacher -o applied.safetensors",
        "interpolate a.pth:teacher b.pth:teacher --at 0.5 -o middle.safetensors",
    ):
        done = rebasin(*command.split())
        assert done.code == 0, done.err
    applied, aligned = load_file("applied.safetensors"), load_file("b.teacher.aligned.safetensors")
    assert all(torch.equal(applied[key], aligned[key]) for key in aligned)
    refused = rebasin("apply", "b.teacher.permutation.safetensors", "b.pth:teacher", "-o", "b.pth", "-f")
    assert refused.code == 2


def test_the_commands_that_are_advised_work(rebasin: Rebasin, files: Path) -> None:
    done = rebasin("align", "a.pth", "b.pth:student")
    assert done.code == 3
    assert "student (6 tensors), teacher (6 tensors)" in done.err
    advised = done.err.partition("name one of them: ")[2].splitlines()[0].split(", ")
    assert advised == ["a.pth:student", "a.pth:teacher"]
    for word in advised:
        assert rebasin("align", *shlex.split(word), "b.pth:student", "-f").code == 0
    with_average = rebasin("align", "ema_a.pth", "ema_b.pth")
    assert with_average.code == 0
    word = with_average.err.partition("beside them: ")[2].split()[0]
    assert word == "ema_a.pth:state_dict_ema"
    assert rebasin("align", word, "ema_b.pth:state_dict_ema").code == 0
    assert Path("ema_b.state_dict_ema.aligned.safetensors").exists()


def test_a_key_that_is_not_there(rebasin: Rebasin, files: Path) -> None:
    rebasin("align", "a.pth:teacher", "b.pth:student")
    before = sorted(files.iterdir())
    for arguments, code, message in (
        (("align", "a.pth:teachr", "b.pth:student"), 3, "has no 'teachr'; it has student"),
        (("inspect", "b.student.aligned.safetensors:x"), 2, "and it has one network"),
        (("inspect", f"{files}:x"), 2, "a folder has one network"),
        (("inspect", "none.pth:x"), 4, "there is no such file"),
        (("inspect", "org/name"), 4, "name it hf:org/name"),
    ):
        done = rebasin(*arguments)
        assert done.code == code
        assert message in done.err
    assert sorted(files.iterdir()) == before


def test_several_networks_through_a_pipe(rebasin: Rebasin, files: Path) -> None:
    done = rebasin("align", "a.pth:student", "-", "-o", "out.safetensors", stdin=Path("b.pth").read_bytes())
    assert done.code == 3
    assert "name one of them: FILE:student, FILE:teacher" in done.err


def test_an_odd_key_gives_a_sane_name(rebasin: Rebasin, files: Path) -> None:
    torch.save({"my net/..": mlp_state(0), "other": mlp_state(1)}, "c.pth")
    done = rebasin("align", "a.pth:student", "c.pth:my net/..")
    assert done.code == 0, done.err
    assert Path("c.my_net_.aligned.safetensors").exists()
    assert done.document["inputs"]["b"]["path"] == f"{files}/c.pth:my net/.."
    assert rebasin("interpolate", "--at", "0.5", "-o", "m.safetensors", stdin=done.out.encode()).code == 0


def test_head_counts_of_a_file_size_the_heads(rebasin: Rebasin, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    width, blocks = 8, 1
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        state = {"wte.weight": (10, width), "wpe.weight": (6, width)}
        for i in range(blocks):
            state |= {f"h.{i}.{key}": shape for key, shape in _block(width).items()}
        state |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
        tensors = {key: torch.randn(shape, generator=generator) for key, shape in state.items()}
        torch.save({"model": tensors, "args": argparse.Namespace(n_head=2, lr=0.1)}, f"{name}.pt")
    done = rebasin("align", "a.pt", "b.pt", "--arch", "gpt2")
    assert done.code == 0, done.err
    assert "head counts were taken from 'args' of the file" in done.err
    assert done.document["architecture"]["dims"]["head.0"]["size"] == 2
    Path("config.json").write_text(json.dumps({"n_head": 4}))
    done = rebasin("align", "a.pt", "b.pt", "--arch", "gpt2", "-f")
    assert done.document["architecture"]["dims"]["head.0"]["size"] == 4


def _block(width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for norm in ("ln_1", "ln_2"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    layers = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width), "mlp.c_fc": (width, 16)}
    for layer, (ins, outs) in {**layers, "mlp.c_proj": (16, width)}.items():
        shapes |= {f"{layer}.weight": (ins, outs), f"{layer}.bias": (outs,)}
    return shapes


def test_a_document_has_a_limit(rebasin: Rebasin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebasin_cli.report.codec.LONGEST", 1000)
    done = rebasin("interpolate", stdin=b" " * 2000)
    assert done.code == 3
    assert "which is no run document" in done.err
