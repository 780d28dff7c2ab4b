"""What documents show of the Python API runs: the notebooks of docs, and README."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.notebooks import DOCS, run_notebook
from tests.small import DATA, ROOT

NUMBERS = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def words(outputs: list[dict[str, Any]]) -> list[str]:
    """What a cell shows as text, without its numbers."""
    texts = ["".join(output.get("text") or output["data"]["text/plain"]) for output in outputs]
    return [re.sub(r"\s+", " ", NUMBERS.sub("N", text)) for text in texts]


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_shows_what_its_cells_make(path: Path) -> None:
    for cell, outputs in run_notebook(path):
        assert words(cell["outputs"]) == words(outputs), "run `python -m tests.notebooks`"


def test_the_python_of_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for which in "ab":
        shutil.copy(DATA / f"digits_mlp_{which}.safetensors", tmp_path / f"{which}.safetensors")
    shutil.copy(DATA / "digits.npz", tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(block, {})
    assert (tmp_path / "b.aligned.permutation.safetensors").exists()
    assert (tmp_path / "merged.safetensors").exists()
