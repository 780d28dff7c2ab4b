"""A network of one's own with tied weights, from checkpoints with both names or one, by real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.small import run, save

NETWORK = """
import torch
from torch import nn
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.mid, self.out = nn.Embedding(7, 16), nn.Linear(16, 16), nn.Linear(16, 7, bias=False)
        self.shared = nn.Linear(16, 16)
        self.again = nn.Linear(16, 16)
        self.out.weight, self.again.weight = self.emb.weight, self.shared.weight
    def forward(self, tokens):
        x = torch.relu(self.mid(self.emb(tokens).mean(1)))
        return self.out(self.again(torch.relu(self.shared(x))))
def net(state):
    module = Tied()
    module.load_state_dict(state, strict=False)
    return module
def data():
    torch.manual_seed(3)
    return torch.randint(0, 7, (40, 5)), torch.randint(0, 7, (40,))
"""
SPEC = """
name: tied
tensors:
  emb.weight?: _ e
  out.weight?: _ e
  mid.weight: e e
  mid.bias: e
  shared.weight: e e
  again.weight: e e
  "{shared,again}.bias": e
"""
APART = SPEC.replace("out.weight?: _ e", "out.weight?: _ f")
PATH = ("interpolate", "a.safetensors", "b.safetensors", "--arch", "tied.yaml", "--network", "mine:net",
        "--data", "mine:data", "--steps", 3)  # fmt: skip


def state(seed: int, *left_out: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(shape, generator=generator) / 4 for name, shape in (
        ("emb.weight", (7, 16)), ("mid.weight", (16, 16)), ("mid.bias", (16,)), ("shared.weight", (16, 16)),
        ("shared.bias", (16,)), ("again.bias", (16,)),
    )}  # fmt: skip
    found |= {"out.weight": found["emb.weight"].clone(), "again.weight": found["shared.weight"].clone()}
    return {name: tensor for name, tensor in found.items() if name not in left_out}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(NETWORK)
    (tmp_path / "tied.yaml").write_text(SPEC)
    return tmp_path


def saved(folder: Path, *left_out: str) -> None:
    for seed, name in enumerate("ab"):
        save(folder / f"{name}.safetensors", state(seed, *left_out))


def document(folder: Path, *arguments: object) -> Any:
    done = run(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_both_names_or_one_give_the_same_losses(folder: Path) -> None:
    found = []
    for left_out in ((), ("out.weight",), ("emb.weight",)):
        saved(folder, *left_out)
        found.append(document(folder, *PATH, "--no-align")["barrier"]["naive"]["loss"])
    assert found[0] == found[1] == found[2]
    saved(folder)
    aligned = document(folder, *PATH)["barrier"]["aligned"]["loss"]
    assert aligned[2] == pytest.approx(found[0][2], rel=1e-5)
    ste = document(folder, *PATH, "--method", "ste", "--epochs", 1)["barrier"]["aligned"]["loss"]
    assert ste[2] == pytest.approx(found[0][2], rel=1e-5)


def test_copies_that_would_part_are_refused_before_matching(folder: Path) -> None:
    """By their bytes; and where these differ in the last digit, by the network that has them as one."""
    (folder / "tied.yaml").write_text(APART)
    saved(folder)
    done = run(*PATH, cwd=folder)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"emb.weight and out.weight are equal, as one tensor under two names is" in done.stderr
    rounded = state(1)
    save(folder / "b.safetensors", rounded | {"out.weight": rounded["emb.weight"] * (1 + 2e-7)})
    done = run(*PATH, cwd=folder)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"emb.weight and out.weight are one tensor in --network mine:net, and two here" in done.stderr


def test_copies_that_differ_in_the_checkpoint_end_it_early(folder: Path) -> None:
    saved(folder)
    save(folder / "a.safetensors", state(0) | {"out.weight": torch.zeros(7, 16)})
    done = run(*PATH, cwd=folder)
    assert done.returncode == 3
    assert done.stdout == b""
    assert b"emb.weight and out.weight are one tensor" in done.stderr


def test_repair_leaves_the_copies_equal(folder: Path) -> None:
    saved(folder)
    done = run(*PATH, "--no-align", "--repair", "repair", "--at", 0.5, "-o", "m.safetensors", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    assert b"shared, again: tied to another layer" in done.stderr
    merged = load_file(folder / "m.safetensors")
    assert torch.equal(merged["shared.weight"], merged["again.weight"])
    assert not torch.equal(merged["mid.weight"], torch.lerp(state(0)["mid.weight"], state(1)["mid.weight"], 0.5))
