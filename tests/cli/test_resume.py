"""A sweep that is cut short keeps its points, and `--resume` goes on from them: real processes, real signals."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rebasin_cli.report.codec import from_json, read_document
from tests.cli.conftest import Rebasin
from tests.small import READER, command, environment, mlp_state, run, save, save_pair

# One line for every point; at the line number in `stop` it hangs, as long ones would, at that in `fail` it fails.
EVALUATE = (
    READER
    + """
import pathlib, sys, time
with open("calls", "a") as log:
    log.write("call\\n")
number = len(pathlib.Path("calls").read_text().splitlines())
if pathlib.Path("stop").exists() and number == int(pathlib.Path("stop").read_text()):
    time.sleep(100)
if pathlib.Path("fail").exists() and number == int(pathlib.Path("fail").read_text()):
    sys.exit("it broke")
print((read(sys.argv[1])[1]["fc.0.weight"] ** 2).mean())
"""
)
OWN = """
def count(outputs, targets):
    with open("calls", "a") as log:
        log.write("call\\n")
    return 1.0
def changed(outputs, targets):
    return 2.0
"""
PATH = ("interpolate", "a.safetensors", "b.safetensors")
COMMAND = ("--steps", 4, "--eval-command", shlex.quote(sys.executable) + " eval.py {checkpoint}")
DATA = ("--data", "data.npz", "--metric", "mine:count")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_pair(tmp_path)
    (tmp_path / "eval.py").write_text(EVALUATE)
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calls(folder: Path) -> int:
    path = folder / "calls"
    return len(path.read_text().splitlines()) if path.exists() else 0


def interrupted(folder: Path, number: signal.Signals, at: int, *arguments: object) -> tuple[int, str]:
    """Run until the evaluation of one point hangs, and send the signal then."""
    (folder / "stop").write_text(str(at))
    process = subprocess.Popen(
        command(*PATH, *COMMAND, *arguments), cwd=folder, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while calls(folder) < at:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    time.sleep(0.1)  # it may still be starting to sleep
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out == b""
    (folder / "stop").unlink()
    return process.returncode, err.decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_points_and_the_same_command_goes_on(
    folder: Path, number: signal.Signals, code: int
) -> None:
    whole = json.loads(run(*PATH, *COMMAND, cwd=folder).stdout)
    assert calls(folder) == 7  # A once, then three points of each curve
    (folder / "calls").unlink()
    ended, err = interrupted(folder, number, 6, "--resume", "sweep.json")
    assert ended == code
    assert f"2 points are not measured yet; the others are kept in {folder / 'sweep.json'}: --resume" in err
    kept = json.loads((folder / "sweep.json").read_text())
    assert kept["barrier"]["missing"] == 2
    assert kept["barrier"]["naive"] == whole["barrier"]["naive"]
    assert kept["barrier"]["aligned"]["loss"] == [*whole["barrier"]["aligned"]["loss"][:2], None, None]
    shown = run("report", "--text", "-", cwd=folder, stdin=json.dumps(kept).encode()).stdout.decode()
    assert "2 points not measured" in shown

    done = run(*PATH, *COMMAND, "--resume", "sweep.json", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    assert calls(folder) == 6 + 2  # the point that hung, and the one after it
    assert b"nothing is matched again" in done.stderr
    finished = json.loads(done.stdout)
    assert read_document(folder / "sweep.json") == from_json(done.stdout.decode(), "stdout")
    assert finished["barrier"] == whole["barrier"]
    assert finished["match"] == kept["match"]  # its seconds too: nothing was matched again
    assert finished["outputs"]["permutation"] == str(folder / "sweep.permutation.safetensors")


def test_without_a_file_it_is_said_that_the_points_are_lost(folder: Path) -> None:
    code, err = interrupted(folder, signal.SIGINT, 3)
    assert code == 130
    assert "6 points are not measured yet; the others are lost: --resume FILE keeps them" in err
    assert not list(folder.glob("*.json"))


def test_a_document_named_with_report_can_be_gone_on_with(folder: Path) -> None:
    interrupted(folder, signal.SIGINT, 6, "--report", "run.json")
    assert run(*PATH, *COMMAND, "--resume", "run.json", cwd=folder).returncode == 0
    assert calls(folder) == 6 + 2  # matched again, to the same permutation


def test_points_that_failed_are_tried_again(rebasin: Rebasin, folder: Path) -> None:
    (folder / "fail").write_text("2")
    failed = rebasin(*PATH, *COMMAND, "--resume", "sweep.json")
    assert failed.code == 3
    assert "it broke" in failed.err
    assert list(failed.document["barrier"]["failures"]) == ["naive, λ = 0.333333"]
    before = calls(folder)
    done = rebasin(*PATH, *COMMAND, "--resume", "sweep.json")
    assert done.code == 0, done.err
    assert calls(folder) == before + 1
    assert "failures" not in done.document["barrier"]
    assert "could not be measured" not in " ".join(done.document["warnings"])


def test_what_a_finished_sweep_measured_is_not_measured_again(rebasin: Rebasin, folder: Path) -> None:
    first = rebasin(*PATH, *DATA, "--steps", 3, "--resume", "sweep.json")
    assert first.code == 0, first.err
    assert calls(folder) == 5  # A, then naive and aligned at ½ and 1
    assert rebasin(*PATH, *DATA, "--steps", 3, "--resume", "sweep.json").code == 0
    assert calls(folder) == 5
    finer = rebasin(*PATH, *DATA, "--steps", 5, "--resume", "sweep.json", "--repair", "repair")
    assert finer.code == 0, finer.err
    assert calls(folder) == 5 + 2 * 2 + 4  # ¼ and ¾ of two curves, and all of a new one but A
    barrier = finer.document["barrier"]
    assert barrier["naive"]["loss"][::2] == first.document["barrier"]["naive"]["loss"]
    without = rebasin(*PATH, *DATA, "--steps", 5, "--resume", "sweep.json")
    assert without.code == 2
    assert "has the curve `aligned + repair`, which this run leaves out" in without.err
    (folder / "calls").unlink()
    plain = rebasin(*PATH, *DATA, "--steps", 5, "--repair", "repair")
    assert plain.document["barrier"] == barrier
    assert calls(folder) == 13


def test_another_permutation_measures_the_aligned_path_anew(rebasin: Rebasin, folder: Path) -> None:
    state = mlp_state(3)
    save(folder / "b.safetensors", state)  # unrelated, so that methods find different permutations
    assert rebasin(*PATH, *DATA, "--steps", 3, "--resume", "sweep.json").code == 0
    other = rebasin(
        *PATH, *DATA, "--steps", 3, "--resume", "sweep.json", "--method", "activations", "--fit-data", "data.npz"
    )
    assert other.code == 0, other.err
    assert calls(folder) == 5 + 2
    assert other.document["match"]["method"] == "activations"
    fresh = rebasin(*PATH, *DATA, "--steps", 3, "--method", "activations", "--fit-data", "data.npz")
    assert other.document["barrier"] == fresh.document["barrier"]


def test_a_piped_alignment_goes_on_too(rebasin: Rebasin, folder: Path) -> None:
    aligned = rebasin("align", "a.safetensors", "b.safetensors")
    for expected in (5, 5):
        done = rebasin("interpolate", *DATA, "--steps", 3, "--resume", "sweep.json", stdin=aligned.out.encode())
        assert done.code == 0, done.err
        assert calls(folder) == expected


def written(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((*DATA, "--limit", 30), 2, "it differs in examples"),
        (("--data", "data.npz", "--metric", "top5"), 2, "it differs in metrics"),
        (("--data", "data.npz", "--metric", "mine:count", "--network-option", "activation=tanh"), 2, "network options"),
        ((*DATA, "--ignore", "fc.2.bias"), 2, "spec options"),
        ((*DATA, "--combine", "slerp"), 2, "it differs in path"),
        ((*COMMAND,), 2, "it differs in command, examples, loss, network"),
        ((*DATA, "--steps", 2), 2, "has 3 points of a curve, and 1 are none of this run"),
        ((*DATA, "--steps", 4), 2, "--steps 3 has all of them, --steps 5 those between as well"),
        ((*DATA, "--report", "r.json"), 2, "leave --report away"),
        ((), 2, "add --data FILE"),
    ],
)
def test_the_document_of_another_sweep_is_not_written_over(
    rebasin: Rebasin, folder: Path, arguments: tuple[object, ...], code: int, words: str
) -> None:
    assert rebasin(*PATH, *DATA, "--steps", 3, "--resume", "sweep.json").code == 0
    before = (folder / "sweep.json").read_text()
    refused = rebasin(*PATH, "--steps", 3, *arguments, "--resume", "sweep.json")
    assert refused.code == code
    assert words in refused.err
    assert (folder / "sweep.json").read_text() == before


def test_other_inputs_are_named_and_force_begins_anew(rebasin: Rebasin, folder: Path) -> None:
    assert rebasin(*PATH, *DATA, "--steps", 3, "--resume", "sweep.json").code == 0
    save(folder / "b.safetensors", mlp_state(5))
    refused = rebasin(*PATH, *DATA, "--steps", 3, "--resume", "sweep.json")
    assert refused.code == 2
    assert "it differs in B" in refused.err
    anew = rebasin(*PATH, *DATA, "--steps", 3, "--resume", "sweep.json", "--force")
    assert anew.code == 0, anew.err
    assert calls(folder) == 5 + 5
    assert anew.document["barrier"] == rebasin(*PATH, *DATA, "--steps", 3).document["barrier"]


def test_a_file_that_is_no_sweeps_document(rebasin: Rebasin, folder: Path) -> None:
    assert rebasin("align", "a.safetensors", "b.safetensors").code == 0
    for name, code, words in (
        ("b.rebasin.json", 3, "is the document of `rebasin align`"),
        ("mine.py", 3, "not a run document"),
        ("absent/sweep.json", 4, "absent"),
    ):
        refused = rebasin(*PATH, *DATA, "--resume", name)
        assert (refused.code, words in refused.err) == (code, True), refused.err
    np.savez("other.npz", inputs=np.zeros((4, 32), np.float32), targets=np.zeros(4, np.int64))
    save(folder / "sweep.permutation.safetensors", {"x": mlp_state(0)["fc.0.bias"]})
    foreign = rebasin(*PATH, *DATA, "--resume", "sweep.json")
    assert foreign.code == 2
    assert "sweep.permutation.safetensors exists already" in foreign.err
