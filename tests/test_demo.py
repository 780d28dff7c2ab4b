"""`make demo`, step by step: what it prints and leaves behind on the trained pair that ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the demo ran, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", str(DATA / "demo.sh")], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "demo", done.stdout


def test_the_aligned_barrier_is_at_most_a_tenth_of_the_naive_one(demo: tuple[Path, str]) -> None:
    barrier = json.loads((demo[0] / "run.json").read_text())["barrier"]
    naive, aligned = barrier["naive"], barrier["aligned"]
    assert naive["barrier"] > 0.9
    assert aligned["barrier"] <= naive["barrier"] / 10
    assert len(barrier["lambda"]) == 25


def test_both_paths_end_in_the_same_networks(demo: tuple[Path, str]) -> None:
    barrier = json.loads((demo[0] / "run.json").read_text())["barrier"]
    for end in (0, -1):
        assert barrier["naive"]["accuracy"][end] == barrier["aligned"]["accuracy"][end]
        assert barrier["naive"]["loss"][end] == pytest.approx(barrier["aligned"]["loss"][end], abs=1e-6)


def test_it_shows_the_barrier_and_a_plot_and_leaves_its_files(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    assert "One basin: barrier 1.0" in printed
    assert "⠄" in printed
    for name in ("b.aligned.safetensors", "b.aligned.permutation.safetensors", "barrier.png", "report.html"):
        assert (folder / name).stat().st_size > 0
