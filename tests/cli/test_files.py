"""What becomes of files: sets that appear together, inputs that stay, folders of points, kills."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.checkpoints.building import write_sharded
from tests.cli.conftest import Rebasin
from tests.small import ROOT, command, environment, hear_hangups, mlp_state, save, shuffled

ALIGN = ("align", "a.safetensors", "b.safetensors")
PATH = ("interpolate", "a.safetensors", "b.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def second_pair(folder: Path) -> None:
    state = mlp_state(9)
    save(folder / "a2.safetensors", state)
    save(folder / "b2.safetensors", shuffled(state, 3))


# -- sets ---------------------------------------------------------------------------------------------------


def test_kills_and_signals_tear_nothing() -> None:
    """A part of `make torture`: thirty attempts, each at another operation."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--only", "files", "--most", "10", "--json"],
        cwd=ROOT, env=environment(), capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)
    assert [row["attack"] for row in rows] == ["files: files", "files: shards", "files: points"]
    assert all(row["attempts"] == 10 for row in rows)


@pytest.mark.parametrize("stale", ["document", "aligned"])
def test_a_mixed_set_is_refused(stale: str, rebasin: Rebasin, pair: Path) -> None:
    second_pair(pair)
    name = {"document": "out.rebasin.json", "aligned": "out.safetensors"}[stale]
    assert rebasin(*ALIGN, "-o", "out.safetensors").code == 0
    old = (pair / name).read_bytes()
    assert rebasin("align", "a2.safetensors", "b2.safetensors", "-o", "out.safetensors", "--force").code == 0
    applied = ("apply", "out.permutation.safetensors", "b2.safetensors", "-o")
    assert rebasin(*applied, "x.safetensors").code == 0
    (pair / name).write_bytes(old)
    refused = rebasin(*applied, "y.safetensors")
    assert refused.code == 3
    assert "are of two runs" in refused.err
    assert not (pair / "y.safetensors").exists()
    assert rebasin("align", "a2.safetensors", "b2.safetensors", "-o", "out.safetensors", "--force").code == 0  # advice
    assert rebasin(*applied, "y.safetensors").code == 0


@pytest.mark.parametrize("stale", ["document", "aligned"])
def test_a_mixed_set_that_was_moved_is_refused(stale: str, rebasin: Rebasin, pair: Path) -> None:
    """The document names paths that are no more; what lies beside it under the same names is meant."""
    second_pair(pair)
    name = {"document": "out.rebasin.json", "aligned": "out.safetensors"}[stale]
    assert rebasin(*ALIGN, "-o", "out.safetensors").code == 0
    old = (pair / name).read_bytes()
    assert rebasin("align", "a2.safetensors", "b2.safetensors", "-o", "out.safetensors", "--force").code == 0
    moved = pair / "moved"
    moved.mkdir()
    for path in pair.glob("out.*"):
        path.rename(moved / path.name)
    applied = ("apply", moved / "out.permutation.safetensors", "b2.safetensors", "-o")
    assert rebasin(*applied, "x.safetensors").code == 0
    (moved / name).write_bytes(old)
    refused = rebasin(*applied, "y.safetensors")
    assert refused.code == 3, refused.err
    assert "are of two runs" in refused.err


def test_an_edited_document_is_refused(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin(*ALIGN)
    rebasin("align", "a.safetensors", "b.safetensors", "--freeze", "h.0", "-o", "other.safetensors")
    document = done.document
    document["outputs"]["permutation"] = str(pair / "other.permutation.safetensors")
    refused = rebasin("interpolate", "--steps", 3, stdin=json.dumps(document).encode())
    assert refused.code == 3
    assert "it is another permutation" in refused.err
    del document["hashes"]  # the inputs are the same; without the hash of the permutation those must be said
    save_file(load_file("other.permutation.safetensors"), "bare.safetensors", metadata_without_inputs(pair))
    document["outputs"]["permutation"] = str(pair / "bare.safetensors")
    assert rebasin("interpolate", "--steps", 3, stdin=json.dumps(document).encode()).code == 3


def metadata_without_inputs(folder: Path) -> dict[str, str]:
    with safe_open(folder / "other.permutation.safetensors", "pt") as file:
        return {key: value for key, value in file.metadata().items() if key != "inputs"}


def test_a_permutation_of_a_fixed_dim_is_refused(rebasin: Rebasin, pair: Path) -> None:
    assert rebasin(*ALIGN).code == 0
    refused = rebasin(*PATH, "--permutation", "b.permutation.safetensors", "--freeze", "h.0", "--steps", 3)
    assert refused.code == 3
    assert "moves dim h.0, which has to stay" in refused.err


def sharded(folder: Path) -> Sequence[str]:
    """B in two shards; their names."""
    state = load_file("b.safetensors")
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    shards = {
        names[0]: {key: t for key, t in state.items() if key.startswith("fc.0")},
        names[1]: {key: t for key, t in state.items() if not key.startswith("fc.0")},
    }
    write_sharded(folder, shards)
    (folder / "config.json").unlink()
    return names


def test_shards_of_two_runs_are_refused(rebasin: Rebasin, pair: Path) -> None:
    names = sharded(pair / "m")
    assert rebasin("align", "a.safetensors", "m", "-o", "one").code == 0
    assert rebasin("align", "a.safetensors", "m", "-o", "two", "--seed", 1).code == 0
    (pair / "two" / names[0]).replace(pair / "one" / names[0])
    refused = rebasin("inspect", "one")
    assert refused.code == 3
    assert "were written by two runs of rebasin: they differ in rebasin.seed" in refused.err


def test_an_output_that_appears_meanwhile_stays(pair: Path) -> None:
    """The user's own file is made while the evaluation command runs; the weights are not written either."""
    script = "import pathlib; pathlib.Path('out.rebasin.json').write_text('mine'); print(1.0)"
    (pair / "eval.py").write_text(script)
    done = subprocess.run(
        command(*PATH, "--steps", 3, "--at", 0.5, "-o", "out.safetensors", "--no-align", "--eval-command",
                f"{shlex.quote(sys.executable)} eval.py {{checkpoint}}"),
        cwd=pair, env=environment(), capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert b"was made by somebody else meanwhile" in done.stderr
    assert (pair / "out.rebasin.json").read_text() == "mine"
    assert not (pair / "out.safetensors").exists()


def test_a_second_run_on_the_same_outputs_is_told(rebasin: Rebasin, pair: Path) -> None:
    before = contents(pair)
    with (pair / ".b.permutation.safetensors.rebasin-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = rebasin(*ALIGN)
        assert refused.code == 4
        assert "another run of rebasin is writing" in refused.err
    done = rebasin(*ALIGN)  # the lock is one of a dead run by now
    assert done.code == 0, done.err
    assert contents(pair).keys() - before.keys() == {
        "b.aligned.safetensors", "b.permutation.safetensors", "b.rebasin.json",
    }  # fmt: skip


# -- inputs -------------------------------------------------------------------------------------------------


SPEC = (ROOT / "architectures" / "mlp.yaml").read_text().replace("name: mlp", "name: own")


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ((*ALIGN, "--arch", "own.yaml", "--report"), "own.yaml"),
        ((*ALIGN, "--report"), "config.json"),
        ((*ALIGN, "--method", "activations", "--data", "data.npz", "--report"), "data.npz"),
        ((*PATH, "--data", "data.npz", "--arch", "own.yaml", "--steps", 3, "--report"), "own.yaml"),
        ((*PATH, "--data", "data.npz", "--steps", 3, "--resume", "s.png", "--plot"), "s.png"),
        (("merge", *ALIGN[1:], "-o", "m.safetensors", "--arch", "own.yaml", "--report"), "own.yaml"),
        (("apply", "own.permutation.safetensors", "b.safetensors", "--arch", "own.yaml", "-o"), "own.yaml"),
        ((*ALIGN, "-o"), "hard.safetensors"),
    ],
)  # fmt: skip
def test_force_never_replaces_an_input(
    arguments: tuple[object, ...], output: str, rebasin: Rebasin, pair: Path
) -> None:
    (pair / "own.yaml").write_text(SPEC)
    (pair / "config.json").write_text("{}")
    assert rebasin(*ALIGN, "--arch", "own.yaml", "-o", "own.safetensors").code == 0
    assert rebasin(*PATH, "--data", "data.npz", "--steps", 3, "--resume", "s.png").code == 0
    os.link("b.safetensors", "hard.safetensors")
    before = contents(pair)
    link = f"link{Path(output).suffix}"
    for target in (output, link):
        if target == link:
            (pair / link).symlink_to(output)
        refused = rebasin(*arguments, target, "--force")
        assert refused.code == 2, refused.err
        assert "both" in refused.err
    (pair / link).unlink()
    assert contents(pair) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("align", "a.safetensors", "m", "-o", "m/o"),
        ("align", "a.safetensors", "m", "-o", "m/model.safetensors", "--force"),
        ("merge", "a.safetensors", "m", "-o", "m/o.safetensors"),
        ("align", "a.safetensors", "b.safetensors", "m", "-o", "m"),
    ],
)
def test_weights_are_not_written_into_an_input_folder(arguments: tuple[str, ...], rebasin: Rebasin, pair: Path) -> None:
    sharded(pair / "m")
    before = contents(pair / "m")
    refused = rebasin(*arguments)
    assert refused.code == 2, refused.err
    assert "input" in refused.err
    assert contents(pair / "m") == before
    assert rebasin("inspect", "m").code == 0


def test_a_replaced_file_keeps_its_mode(rebasin: Rebasin, pair: Path) -> None:
    assert rebasin(*ALIGN).code == 0
    for name in ("b.aligned.safetensors", "b.permutation.safetensors", "b.rebasin.json"):
        (pair / name).chmod(0o600)
    assert rebasin(*ALIGN, "--force").code == 0
    for name in ("b.aligned.safetensors", "b.permutation.safetensors", "b.rebasin.json"):
        assert (pair / name).stat().st_mode & 0o777 == 0o600


# -- folders of points --------------------------------------------------------------------------------------


def test_a_folder_of_points_goes_on(rebasin: Rebasin, pair: Path) -> None:
    points = (*PATH, "--steps", 5, "-o", "points")
    assert rebasin(*points, "--report", "r1.json").code == 0
    whole = contents(pair / "points")
    refused = rebasin(*points, "--report", "r2.json")
    assert refused.code == 2
    assert "with all 5 points" in refused.err
    for name in ("lam-0.2500.safetensors", "lam-1.0000.safetensors"):
        (pair / "points" / name).unlink()
    done = rebasin(*points, "--report", "r3.json")
    assert done.code == 0, done.err
    assert "3 of 5 points are there already" in done.err
    assert contents(pair / "points") == whole


def test_points_of_another_run(rebasin: Rebasin, pair: Path) -> None:
    second_pair(pair)
    assert rebasin(*PATH, "--steps", 5, "-o", "points").code == 0
    (pair / "points" / "notes.txt").write_text("mine")
    (pair / "points" / "lam-0.5000.safetensors").unlink()
    other = ("interpolate", "a2.safetensors", "b2.safetensors", "-o", "points", "--report", "r.json")
    for more, says in (
        (("--steps", 5), "inputs.a"),
        (("--steps", 5, "--combine", "slerp"), "--combine"),
        (("--steps", 3), "is of 5 points, and this run has 3"),
    ):
        refused = rebasin(*other, *more)
        assert refused.code == 2
        assert says in refused.err
    assert rebasin(*other, "--steps", 3, "--force").code == 0
    names = {path.name for path in (pair / "points").iterdir()}
    lams = {"lam-0.0000.safetensors", "lam-0.5000.safetensors", "lam-1.0000.safetensors"}
    assert names == lams | {"notes.txt", "rebasin-points.json"}


def test_foreign_points_and_inputs_among_them(rebasin: Rebasin, pair: Path) -> None:
    (pair / "points").mkdir()
    (pair / "a.safetensors").rename(pair / "points" / "lam-0.1234.safetensors")
    b = ("points/lam-0.1234.safetensors", "b.safetensors")
    refused = rebasin("interpolate", *b, "--steps", 3, "-o", "points")
    assert refused.code == 2
    assert "does not say what run they are of: lam-0.1234.safetensors" in refused.err
    refused = rebasin("interpolate", *b, "--steps", 3, "-o", "points", "--force")
    assert refused.code == 2
    assert "is an input, and would be replaced" in refused.err
    assert [path.name for path in (pair / "points").iterdir()] == ["lam-0.1234.safetensors"]


# -- the evaluation command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_an_evaluation_command_ends_with_us(number: signal.Signals, pair: Path) -> None:
    """It and what it has started, whatever ends us."""
    (pair / "eval.sh").write_text("sleep 600 &\necho $! $$ > pids\nwait\n")
    process = subprocess.Popen(
        command(*PATH, "--steps", 3, "--eval-command", "sh eval.sh {checkpoint}"), cwd=pair, env=environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=hear_hangups,
    )  # fmt: skip
    while not (pair / "pids").exists() or not (pair / "pids").read_text().strip():
        assert process.poll() is None
        time.sleep(0.02)
    pids = [int(word) for word in (pair / "pids").read_text().split()]
    process.send_signal(number)
    process.wait(timeout=60)
    for _ in range(500):
        if not any(map(runs, pids)):
            break
        time.sleep(0.02)
    else:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        pytest.fail("the command is still running")


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    return bool(done.stdout.strip()) and not done.stdout.strip().startswith(b"Z")


def test_nohup_is_kept(pair: Path) -> None:
    (pair / "eval.sh").write_text("touch begun\nsleep 1\necho 1.0\n")
    process = subprocess.Popen(
        command(*PATH, "--steps", 3, "--no-align", "--eval-command", "sh eval.sh {checkpoint}"), cwd=pair,
        env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    while not (pair / "begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=100) == 0
