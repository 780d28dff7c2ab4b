"""Tensors that are equal in B stay equal, or the command stops."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Rebasin
from tests.small import save

SPEC = """
name: own
tensors:
  emb.weight: _ e
  mid.weight: f e
  mid.bias: f
  out.weight: _ f
  norm{1,2}: e
  up: k _
  down: _ k
"""
ALIKE = SPEC + "dims:\n  f: same as e\n"
PAIR = ("a.safetensors", "b.safetensors", "--arch", "own.yaml")
WRONG = {
    "align": ("align", *PAIR),
    "interpolate": ("interpolate", *PAIR, "--steps", 3, "--at", 0.5, "-o", "m.safetensors"),
    "merge": ("merge", *PAIR, "-o", "m.safetensors"),
}


@pytest.fixture
def tied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two networks whose first and last tensors are one, and constant norms."""
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(SPEC)
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        emb = torch.randn(7, 16, generator=generator)
        state = {
            "emb.weight": emb, "out.weight": emb.clone(),
            "mid.weight": torch.randn(16, 16, generator=generator), "mid.bias": torch.zeros(16),
            "up": torch.randn(5, 3, generator=generator), "down": torch.randn(3, 5, generator=generator),
            "norm1": torch.ones(16), "norm2": torch.ones(16),
        }  # fmt: skip
        save(tmp_path / f"{name}.safetensors", state)
        save(tmp_path / f"{name}-untied.safetensors", {**state, "out.weight": emb + (torch.arange(16) > 2)})
    return tmp_path


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_tie_that_would_break_is_refused(rebasin: Rebasin, tied: Path, call: tuple[object, ...]) -> None:
    before = {path.name for path in tied.iterdir()}
    done = rebasin(*call)
    assert done.code == 3, done.err
    assert "emb.weight and out.weight are equal" in done.err
    assert "emb.weight: _ e (own.yaml:4), out.weight: _ f (own.yaml:7)" in done.err
    assert {path.name for path in tied.iterdir()} == before


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_what_the_error_says_keeps_them_equal(rebasin: Rebasin, tied: Path, call: tuple[object, ...]) -> None:
    freeze = re.search(r"keep them in place with ((?:--freeze \w+ ?)+)", rebasin(*call).err.replace(",", " "))
    assert freeze is not None
    assert rebasin(*call, *freeze[1].split()).code == 0
    Path("own.yaml").write_text(ALIKE)
    done = rebasin(*call, "-f")
    assert done.code == 0, done.err
    written = load_file("b.aligned.safetensors" if call[0] == "align" else "m.safetensors")
    assert torch.equal(written["emb.weight"], written["out.weight"])


def test_equal_heads_are_not_equal_tensors(rebasin: Rebasin, tied: Path) -> None:
    """Tensors that begin alike and then differ, and constant ones that move differently, are no ties."""
    for name in "ab":
        state = load_file(f"{name}-untied.safetensors")
        save(tied / f"{name}.safetensors", {**state, "norm2": torch.ones(16), "mid.bias": torch.ones(16)})
    assert rebasin("align", *PAIR).code == 0


def test_tensors_that_begin_alike_hide_no_tie(rebasin: Rebasin, tied: Path) -> None:
    """The first 64 kB of all three are equal; only the second one is tied to the third."""
    Path("own.yaml").write_text(SPEC.replace("emb.weight:", "emb{1,2}.weight:"))
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        long = torch.randn(2000, 16, generator=generator)
        state = load_file(f"{name}.safetensors")
        del state["emb.weight"]
        state |= {"emb1.weight": long, "emb2.weight": long.clone(), "out.weight": long.clone()}
        state["emb1.weight"] = long + (torch.arange(2000) > 1500)[:, None]
        save(tied / f"{name}.safetensors", state)
    done = rebasin("align", *PAIR)
    assert done.code == 3
    assert "emb2.weight and out.weight are equal" in done.err


def test_apply_looks_at_the_checkpoint_it_is_given(rebasin: Rebasin, tied: Path) -> None:
    untied = ("align", "a-untied.safetensors", "b-untied.safetensors", "--arch", "own.yaml")
    assert rebasin(*untied, "-o", "o.safetensors").code == 0
    call = ("apply", "o.permutation.safetensors", "b.safetensors", "--arch", "own.yaml", "-o", "p.safetensors")
    done = rebasin(*call)
    assert done.code == 3
    assert "emb.weight and out.weight are equal" in done.err
    assert not Path("p.safetensors").exists()
    freeze = re.search(r"align again and keep them in place with ((?:--freeze \w+ ?)+)", done.err.replace(",", " "))
    assert freeze is not None
    assert rebasin(*untied, "-o", "o.safetensors", "-f", *freeze[1].split()).code == 0
    assert rebasin(*call).code == 0
