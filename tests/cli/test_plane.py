"""`rebasin plane`: losses around A, B and π(B), their pictures, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Rebasin
from tests.small import mlp_state, save, shuffled

PLANE = ("plane", "a.safetensors", "c.safetensors", "--data", "data.npz", "--steps", 3)
COUNTED = """
def count(outputs, targets):
    with open("calls", "a") as log:
        log.write("call\\n")
    return 1.0
"""


@pytest.fixture
def folder(pair: Path) -> Path:
    """Beside the pair c.safetensors: A, moved a little and shuffled."""
    generator = torch.Generator().manual_seed(0)
    moved = {key: t + 0.1 * torch.randn(t.shape, generator=generator) for key, t in mlp_state(0).items()}
    save(pair / "c.safetensors", shuffled(moved, 5))
    (pair / "mine.py").write_text(COUNTED)
    return pair


def test_corners_are_the_networks_and_the_aligned_side_is_low(rebasin: Rebasin, folder: Path) -> None:
    plane = rebasin(*PLANE).document["plane"]
    path = rebasin("interpolate", *PLANE[1:]).document["barrier"]
    points = plane["points"]
    assert points["A"]["loss"] == pytest.approx(path["naive"]["loss"][0])
    assert points["B"]["loss"] == pytest.approx(path["naive"]["loss"][2])
    assert points["π(B)"]["loss"] == pytest.approx(points["B"]["loss"], rel=1e-5)
    assert points["middle of A and B"]["loss"] == pytest.approx(path["naive"]["loss"][1], rel=1e-5)
    assert points["middle of A and π(B)"]["loss"] == pytest.approx(path["aligned"]["loss"][1], rel=1e-5)
    assert len(plane["x"]) == len(plane["y"]) == len(plane["loss"]) == len(plane["loss"][0]) == 3


def test_without_a_margin_the_grid_ends_at_the_corners(rebasin: Rebasin, folder: Path) -> None:
    plane = rebasin(*PLANE, "--margin", 0).document["plane"]
    corners = [plane["points"][name]["x"] for name in ("A", "B", "π(B)")]
    assert (plane["x"][0], plane["x"][-1]) == pytest.approx((min(corners), max(corners)))
    assert plane["y"][0] == 0
    assert plane["y"][-1] == pytest.approx(plane["points"]["B"]["y"])


def test_an_alignment_from_a_pipe_is_used(rebasin: Rebasin, folder: Path) -> None:
    aligned = rebasin("align", "a.safetensors", "c.safetensors").out
    done = rebasin("plane", "--data", "data.npz", "--steps", 3, stdin=aligned.encode())
    assert done.code == 0, done.err
    assert done.document["plane"]["loss"] == rebasin(*PLANE).document["plane"]["loss"]
    assert done.document["match"] == json.loads(aligned)["match"]


def test_resume_measures_no_point_twice(rebasin: Rebasin, folder: Path) -> None:
    resumed = (*PLANE, "--metric", "mine:count", "--resume", "plane.json")
    first = rebasin(*resumed).document["plane"]
    calls = len(Path("calls").read_text())
    kept = json.loads(Path("plane.json").read_text())
    kept["plane"]["loss"][1] = [None, None, None]
    Path("plane.json").write_text(json.dumps(kept))
    assert rebasin(*resumed).document["plane"] == first
    batches = calls // (3 * 3 + 5)
    assert len(Path("calls").read_text()) == calls + 3 * batches


def test_resume_refuses_another_plane(rebasin: Rebasin, folder: Path) -> None:
    rebasin(*PLANE, "--resume", "plane.json")
    done = rebasin(*PLANE, "--resume", "plane.json", "--margin", 0.5)
    assert done.code == 2
    assert "another plane: it differs in grid" in done.err
    line = rebasin("interpolate", *PLANE[1:], "--resume", "plane.json")
    assert (line.code, "document of `rebasin plane`" in line.err) == (3, True)


def test_networks_on_a_line_are_refused(rebasin: Rebasin, folder: Path) -> None:
    done = rebasin("plane", "a.safetensors", "b.safetensors", "--data", "data.npz")  # B aligned is A
    assert done.code == 3
    assert "lie on one line" in done.err
    assert "rebasin interpolate" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--steps", 1), "a whole number from 2 to 1000"),
        (("--repair", "repair"), "--repair bn"),
        (("--plot", "p.txt"), ".txt"),
        (("--resume", "r.json", "--report", "s.json"), "leave --report away"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    rebasin: Rebasin, folder: Path, options: tuple[object, ...], said: str
) -> None:
    done = rebasin(*PLANE, *options)
    assert done.code == 2
    assert said in " ".join(done.err.split())


def test_without_data_there_is_no_plane(rebasin: Rebasin, folder: Path) -> None:
    done = rebasin("plane", "a.safetensors", "c.safetensors")
    assert (done.code, "add --data FILE" in done.err) == (2, True)


def test_a_plan_writes_nothing(rebasin: Rebasin, folder: Path) -> None:
    done = rebasin(*PLANE, "--plot", "p.png", "--dry-run")
    assert done.code == 0, done.err
    assert done.document["plan"]["targets"]["plot"].endswith("p.png")
    assert not (folder / "p.png").exists()


@pytest.mark.parametrize(("suffix", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plots_of_every_format(rebasin: Rebasin, folder: Path, suffix: str, head: bytes) -> None:
    assert rebasin(*PLANE, "--plot", f"p.{suffix}").code == 0
    assert (folder / f"p.{suffix}").read_bytes().startswith(head)


def test_reports_of_a_plane_draw_it(rebasin: Rebasin, folder: Path) -> None:
    rebasin(*PLANE, "--report", "r.json")
    assert rebasin("report", "r.json", "--html", "r.html", "--plot", "r.png").code == 0
    assert 'class="plane"' in (folder / "r.html").read_text()
    assert (folder / "r.png").read_bytes().startswith(b"\x89PNG")


def test_the_terminal_marks_the_corners(rebasin: Rebasin, folder: Path) -> None:
    rebasin(*PLANE, "--report", "r.json")
    text = rebasin("report", "r.json", "--text", "-").out
    picture = text[text.index("middle of A and π(B)") :].split("\n", 2)[2]
    assert all(mark in picture for mark in "ABP")
    assert "middle of A and B" in text.splitlines()[0]
