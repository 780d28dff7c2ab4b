"""How much a user spends on a match: starts, quality, a time budget, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rebasin_cli.report.codec import read_document
from tests.cli.conftest import Rebasin
from tests.small import command, environment, mlp_state, save


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two networks that have nothing in common."""
    widths = (16, 24, 24, 24, 8)
    save(tmp_path / "a.safetensors", mlp_state(0, widths))
    save(tmp_path / "b.safetensors", mlp_state(1, widths))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_several_starts_and_their_spread(rebasin: Rebasin, strangers: Path) -> None:
    one = rebasin("align", "a.safetensors", "b.safetensors", "-o", "one.safetensors", "--restarts", 1)
    many = rebasin("align", "a.safetensors", "b.safetensors", "-o", "many.safetensors", "--restarts", 9)
    assert one.code == many.code == 0
    assert "trials" not in one.document["match"]
    trials = many.document["match"]["trials"]
    assert len(trials) == 9
    assert trials[0]["objective"] == one.document["match"]["objective"][-1]
    assert many.document["match"]["objective"][-1] == max(trial["objective"] for trial in trials)
    shown = rebasin("report", "many.rebasin.json", "--markdown", "-")
    assert "9, reaching" in shown.out


@pytest.mark.parametrize(
    "more",
    [["--restarts", 7], ["--quality", "high"], ["--method", "frank-wolfe"], ["--method", "sinkhorn"]],
    ids=str,
)
def test_threads_change_no_byte(rebasin: Rebasin, strangers: Path, more: list[object]) -> None:
    found = []
    for threads in (1, 2, 5):
        name = f"{threads}.safetensors"
        done = rebasin("align", "a.safetensors", "b.safetensors", "-o", name, "--threads", threads, *more)
        assert done.code == 0, done.err
        match = done.document["match"]
        kept = {key: match[key] for key in ("objective", "solves", "stop")}
        trials = [(trial["name"], trial["objective"]) for trial in match["trials"]]
        found.append((Path(name).read_bytes(), Path(f"{threads}.permutation.safetensors").read_bytes(), kept, trials))
    assert found[0] == found[1] == found[2]


def test_quality(rebasin: Rebasin, strangers: Path) -> None:
    matches = []
    for quality in ("fast", "default", "high"):
        done = rebasin("align", "a.safetensors", "b.safetensors", "-o", f"{quality}.safetensors", "--quality", quality)
        assert done.code == 0
        matches.append(done.document["match"])
    assert "trials" not in matches[0]
    both, most = ({trial["name"]: trial["objective"] for trial in match["trials"]} for match in matches[1:])
    assert list(both) == ["anchored, forward order", "frank-wolfe, barycentre"]
    assert both["anchored, forward order"] == matches[0]["objective"][-1]
    assert set(both) < set(most)
    assert {"frank-wolfe, identity", "sinkhorn, barycentre", "identity, random order, seed 0"} < set(most)
    ends = [match["objective"][-1] for match in matches]
    assert ends == sorted(ends)


def test_the_papers_loop_is_one_descent(rebasin: Rebasin, strangers: Path) -> None:
    done = rebasin("align", "a.safetensors", "b.safetensors", "--start", "identity", "--order", "random")
    assert done.code == 0
    assert "trials" not in done.document["match"]


@pytest.mark.parametrize(
    ("method", "starts"),
    [("frank-wolfe", ["frank-wolfe, barycentre", "frank-wolfe, identity"]), ("sinkhorn", ["sinkhorn, barycentre"])],
)
def test_joint_methods_are_never_below_descent(
    rebasin: Rebasin, strangers: Path, method: str, starts: list[str]
) -> None:
    plain = rebasin("align", "a.safetensors", "b.safetensors", "-o", "plain.safetensors", "--quality", "fast")
    done = rebasin("align", "a.safetensors", "b.safetensors", "-o", "other.safetensors", "--method", method)
    assert done.code == 0
    match = done.document["match"]
    assert match["method"] == method
    assert [trial["name"] for trial in match["trials"]] == ["anchored, forward order", *starts]
    assert match["objective"][-1] >= plain.document["match"]["objective"][-1]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_time_budget_ends_with_the_best_so_far(rebasin: Rebasin, strangers: Path, threads: int) -> None:
    starts = ("--restarts", 10**6, "--threads", threads)
    done = rebasin("align", "a.safetensors", "b.safetensors", *starts, "--time-budget", "0.5s")
    assert done.code == 0
    match = done.document["match"]
    assert match["stop"] == "time"
    assert match["objective"][-1] == max(trial["objective"] for trial in match["trials"])
    assert any("time budget" in warning for warning in done.document["warnings"])
    assert Path("b.aligned.safetensors").exists()


def test_a_time_that_is_none(rebasin: Rebasin, strangers: Path) -> None:
    assert rebasin("align", "a.safetensors", "b.safetensors", "--time-budget", "soon").code == 2


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("save_it", [True, False])
def test_an_interrupt_writes_the_best_so_far_if_asked(strangers: Path, save_it: bool, threads: int) -> None:
    more = ["--threads", threads, *(["--on-interrupt", "save"] if save_it else [])]
    process = subprocess.Popen(
        command("align", "a.safetensors", "b.safetensors", "--restarts", 10**6, "-v", *more),
        cwd=strangers, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if b"identity, forward order: objective" in line:  # the second of them has ended
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert b"interrupted" in err
    assert (strangers / "b.aligned.safetensors").exists() is save_it
    if save_it:
        document = read_document(strangers / "b.rebasin.json")
        assert document.match is not None
        assert document.match.stop == "interrupted"
        assert set(load_file(strangers / "b.aligned.safetensors")) == set(load_file(strangers / "b.safetensors"))
