"""The guide to writing specs, followed to the letter: its files are written, its commands are run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rebasin_cli.spec import load_spec

GUIDE = (Path(__file__).parent.parent / "architectures" / "README.md").read_text()


def block(language: str) -> str:
    """The first fenced block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mixer.py").write_text(block("python"))
    (tmp_path / "mixer.yaml").write_text(block("yaml"))
    code = "import torch, mixer\nfor n in ('mixer', 'a', 'b'): torch.save(mixer.Mixer().state_dict(), f'{n}.pt')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    return tmp_path


def rebasin(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder."""
    return subprocess.run([sys.executable, "-m", "rebasin_cli", *words], cwd=folder, capture_output=True, text=True)


def test_the_commands_of_the_guide_succeed(folder: Path) -> None:
    commands = [
        line.split()[1:] for text in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL) for line in text.splitlines()
    ]
    assert [words[1] for words in commands] == ["derive", "a.pt", "check", "prove"]
    (folder / "mixer.yaml").rename(folder / "written.yaml")
    for words in commands:
        if words[1] == "check":
            (folder / "written.yaml").replace(folder / "mixer.yaml")
        done = rebasin(folder, *words)
        assert done.returncode == 0, done.stderr


def test_the_mistakes_that_the_guide_describes_are_found(folder: Path) -> None:
    spec = (folder / "mixer.yaml").read_text()
    (folder / "wrong.yaml").write_text(
        spec.replace("mlp_tokens.fc2.weight: _ tokens", "mlp_tokens.fc2.weight: _ channels")
    )
    done = rebasin(folder, "arch", "check", "wrong.yaml", "mixer.pt")
    assert done.returncode == 1
    assert "channels.0" in done.stderr
    (folder / "wrong.yaml").write_text(spec.replace("stem.bias: embed", "stem.bias: _"))
    assert rebasin(folder, "arch", "check", "wrong.yaml", "mixer.pt").returncode == 0
    done = rebasin(folder, "arch", "prove", "wrong.yaml", "--network", "mixer:make")
    assert done.returncode == 1
    assert "permuting embed alone breaks the function; first seen after stem" in re.sub(r"\s+", " ", done.stderr)


def test_two_mixers_are_aligned_by_the_spec(folder: Path) -> None:
    for seed in (0, 1):
        code = f"import torch, mixer; torch.manual_seed({seed}); torch.save(mixer.Mixer().state_dict(), '{seed}.pt')"
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    done = rebasin(folder, "align", "0.pt", "1.pt", "--arch", "mixer.yaml")
    assert done.returncode == 0, done.stderr
    assert (folder / "1.aligned.safetensors").exists()
    assert torch.load(folder / "0.pt", weights_only=True)["stem.weight"].shape == (10, 3, 4, 4)


def test_every_form_in_the_tables_parses(tmp_path: Path) -> None:
    rows = re.findall(r"^\| .*? \| `([^`]+)` \|$", GUIDE, re.MULTILINE)
    assert len(rows) == 5
    keys = ["a.{i}", "fc.{c}", "b.{i}", "c", "d"]
    text = "tensors:\n" + "".join(f"  {key}: {row}\n" for key, row in zip(keys, rows, strict=True))
    (tmp_path / "s.yaml").write_text(text + "  f.{c}: conv.{c} _ _ _\n")
    assert len(load_spec(tmp_path / "s.yaml").lines) == 6
