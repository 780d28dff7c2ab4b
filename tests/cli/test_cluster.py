"""`--cluster`: the same bytes from workers in other processes, one of which is killed; and what is refused."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

import rebasin_cli as api
from rebasin_cli.errors import SystemFailure, UsageError
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline import cluster as ours
from rebasin_cli.pipeline.inputs import Source, scan_sources
from rebasin_cli.pipeline.members import MembersRequest, prepare
from rebasin_cli.pipeline.members_run import remote_tasks
from tests.cli.conftest import Outcome, Rebasin
from tests.cluster import Cluster, cluster
from tests.small import ROOT, command, environment, mlp_state, save

WIDTHS = (64, 96, 96, 10)
NAMES = tuple(f"m{i}.safetensors" for i in range(1, 5))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler with two workers."""
    with cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with five networks of one form."""
    for i in range(5):
        save(tmp_path / f"m{i}.safetensors", mlp_state(i, WIDTHS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def held(folder: Path) -> Mapping[str, bytes]:
    """Everything in a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def same_document(one: Outcome, two: Outcome) -> bool:
    """Whether they found the same: places, times and what was typed apart."""
    parts = ("match", "merge", "distance", "members", "architecture", "inputs", "verdict")

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k not in ("seconds", "outputs", "reading", "total")}
        return [plain(v) for v in value] if isinstance(value, list) else value

    return all(plain(one.document.get(part)) == plain(two.document.get(part)) for part in parts)


@pytest.mark.parametrize(
    "words",
    [
        ("align", "m0.safetensors", *NAMES, "-o", "OUT"),
        ("align", "m0.safetensors", *NAMES, "--together", "-o", "OUT"),
        ("align", "m0.safetensors", "m1.safetensors", "--restarts", "4", "-o", "OUT/b.safetensors"),
        ("align", "m0.safetensors", "m1.safetensors", "--symmetry", "all", "-o", "OUT/b.safetensors"),
        ("align", "m0.safetensors", "m1.safetensors", "--quality", "high", "-o", "OUT/b.safetensors"),
        ("interpolate", "m0.safetensors", "m1.safetensors", "--restarts=3", "--at=0.5", "-o", "OUT/b.safetensors"),
        ("merge", "m0.safetensors", *NAMES, "--restarts", "2", "-o", "OUT/b.safetensors"),
        ("merge", "m0.safetensors", *NAMES, "--algorithm", "hierarchical", "-o", "OUT/b.safetensors"),
    ],
    ids=["members", "together", "starts", "scales", "high", "interpolate", "merge", "hierarchical"],
)
def test_workers_give_the_bytes_of_this_process(
    rebasin: Rebasin, seeds: Path, two: Cluster, words: tuple[str, ...]
) -> None:
    found = []
    for folder, more in (("here", ()), ("there", ("--cluster", two.file))):
        (seeds / folder).mkdir()
        before = two.finished()
        done = rebasin(*(word.replace("OUT", folder) for word in words), *more)
        assert done.code == 0, done.err
        assert (two.finished() > before) == bool(more), "who has worked"
        documents = [name for name in held(seeds / folder) if name.endswith(".json")]
        found.append((done, {k: v for k, v in held(seeds / folder).items() if k not in documents}))
    assert found[0][1] == found[1][1]
    assert found[0][1]
    assert same_document(found[0][0], found[1][0])


def test_a_local_cluster_is_started_and_ended(rebasin: Rebasin, seeds: Path) -> None:
    here = rebasin("align", "m0.safetensors", *NAMES, "-o", "here")
    there = rebasin("align", "m0.safetensors", *NAMES, "-o", "there", "--cluster", "local:1")
    assert (here.code, there.code) == (0, 0), there.err
    assert held(seeds / "here") == held(seeds / "there")
    outputs = {"here", "there", "here.rebasin.json", "there.rebasin.json"}
    assert set(os.listdir(seeds)) == {"m0.safetensors", *NAMES, *outputs}, "nothing of the workers is left"


def thirty_more(folder: Path) -> list[str]:
    """Thirty-one larger networks, by their names: enough to interrupt."""
    names = ["first.safetensors", *(f"n{i:02}.safetensors" for i in range(30))]
    return [save(folder / name, mlp_state(99 + i, (256, 128, 128, 10))).name for i, name in enumerate(names)]


def begun(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The command, running in the folder."""
    words = command(*arguments)
    return subprocess.Popen(words, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_worker_that_is_killed_costs_no_result(rebasin: Rebasin, seeds: Path, tmp_path: Path) -> None:
    first, *members = thirty_more(seeds)
    (place := tmp_path / "cluster").mkdir()
    with cluster(place) as started:
        running = begun(seeds, "align", first, *members, "-o", "there", "--cluster", started.file)
        written = _wait_for(seeds / "there", 4, running)
        started.workers[0].send_signal(signal.SIGKILL)
        _, err = running.communicate(timeout=300)
        assert running.returncode == 0, err.decode()
    assert written < len(members), "it was killed too late to mean anything"
    assert rebasin("align", first, *members, "-o", "here").code == 0
    assert held(seeds / "here") == held(seeds / "there")


def test_a_member_that_kills_its_workers_fails_alone(rebasin: Rebasin, seeds: Path, tmp_path: Path) -> None:
    (place := tmp_path / "cluster").mkdir()
    (place / "killing.py").write_text(KILLING)
    killing = {
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        "DASK_DISTRIBUTED__WORKER__PRELOAD": str(place / "killing.py"),
    }
    with cluster(place, 3, **killing) as started:
        done = rebasin("align", "m0.safetensors", *NAMES, "-o", "there", "--cluster", started.file)
    assert done.code == 4, done.err
    assert "1 of 4 checkpoints could not be aligned: m2.safetensors: worker after worker" in done.err
    assert "--resume" in done.err
    assert rebasin("align", "m0.safetensors", *NAMES, "-o", "here").code == 0
    expected = {name: data for name, data in held(seeds / "here").items() if not name.startswith("m2.")}
    assert held(seeds / "there") == expected
    again = rebasin("align", "m0.safetensors", *NAMES, "-o", "there", "--resume", "there.rebasin.json")
    assert again.code == 0, again.err
    assert held(seeds / "there") == held(seeds / "here")


KILLING = """
import os
from rebasin_cli.pipeline import members_run

def dask_setup(_):
    plainly = members_run._one

    def one(run, member, *rest, **more):
        if member.source.path.name == "m2.safetensors":
            os._exit(1)
        return plainly(run, member, *rest, **more)

    members_run._one = one
"""
"""What Dask loads into workers that die of one checkpoint."""


def test_a_run_without_its_scheduler_ends_with_whole_files(rebasin: Rebasin, seeds: Path, tmp_path: Path) -> None:
    first, *members = thirty_more(seeds)
    (place := tmp_path / "cluster").mkdir()
    with cluster(place) as started:
        running = begun(seeds, "align", first, *members, "-o", "there", "--cluster", started.file)
        _wait_for(seeds / "there", 3, running)
        started.scheduler.send_signal(signal.SIGKILL)
        _, err = running.communicate(timeout=300)
    assert running.returncode == 4, err.decode()
    assert b"is gone" in err
    assert b"--resume" in err
    assert b"Traceback" not in err, err.decode()
    assert rebasin("align", first, *members, "-o", "here").code == 0
    whole = held(seeds / "here")
    assert all(data == whole[name] for name, data in held(seeds / "there").items())
    again = rebasin("align", first, *members, "-o", "there", "--resume", "there.rebasin.json")
    assert again.code == 0, again.err
    assert held(seeds / "there") == whole


def _wait_for(folder: Path, count: int, running: subprocess.Popen[bytes]) -> int:
    until = time.monotonic() + 120
    while time.monotonic() < until and running.poll() is None:
        written = len(list(folder.glob("*.permutation.safetensors"))) if folder.is_dir() else 0
        if written >= count:
            return written
        time.sleep(0.01)
    raise AssertionError(f"nothing was written: {running.communicate(timeout=60)[1].decode()}")


def test_a_task_is_done_again_and_refuses_another_a(seeds: Path) -> None:
    """A worker may die after the files appear and before it says so; then another one does the task once more."""
    request = MembersRequest(Source.file(Path("m0.safetensors")), (Source.file(Path("m1.safetensors")),), Path("out"))
    with ExitStack() as files:
        run = prepare(request, files, Progress())
        known = scan_sources({"a": (request.a, run.a)}, Progress())["a"]
        (task,) = (pickle.dumps(task) for task in remote_tasks(run, known, {}))
    first, _ = pickle.loads(task)()
    written = held(seeds / "out")
    second, _ = pickle.loads(task)()
    assert first.failure == second.failure == ""
    assert written == held(seeds / "out")
    assert len(written) == 2
    save(seeds / "m0.safetensors", mlp_state(5, WIDTHS))
    with pytest.raises(SystemFailure, match="another file on a worker"):
        pickle.loads(task)


def test_ctrl_c_leaves_the_scheduler_without_tasks(rebasin: Rebasin, seeds: Path, two: Cluster) -> None:
    members = [save(seeds / f"n{i:03}.safetensors", mlp_state(100 + i, (256, 128, 128, 10))).name for i in range(60)]
    save(seeds / "m0.safetensors", mlp_state(0, (256, 128, 128, 10)))
    running = begun(seeds, "align", "m0.safetensors", *members, "-o", "out", "--cluster", two.file)
    _wait_for(seeds / "out", 3, running)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 130, err.decode()
    assert b"--resume" in err
    with two.client() as client:
        for _attempt in range(100):
            if not client.run_on_scheduler(_tasks):
                break
            time.sleep(0.1)
        assert client.run_on_scheduler(_tasks) == 0
    assert len(list((seeds / "out").glob("*.permutation.safetensors"))) < len(members)
    again = rebasin("align", "m0.safetensors", *members, "-o", "out", "--resume", "out.rebasin.json")
    assert again.code == 0, again.err  # what a worker had begun is there, and nobody had heard of it


def test_ctrl_c_of_a_terminal_ends_local_workers_silently(seeds: Path) -> None:
    members = [save(seeds / f"n{i:03}.safetensors", mlp_state(100 + i, (256, 128, 128, 10))).name for i in range(60)]
    save(seeds / "m0.safetensors", mlp_state(0, (256, 128, 128, 10)))
    running = subprocess.Popen(
        command("align", "m0.safetensors", *members, "-o", "out", "--cluster", "local:2"),
        cwd=seeds, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    _wait_for(seeds / "out", 1, running)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 130, err.decode()
    assert b"Traceback" not in err, err.decode()


def _tasks(dask_scheduler: object) -> int:
    return len(dask_scheduler.tasks)  # type: ignore[attr-defined]


def test_no_scheduler_and_no_worker_are_told_before_the_work(
    rebasin: Rebasin, seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "PATIENCE", 1)
    gone = rebasin("align", "m0.safetensors", *NAMES, "-o", "out", "--cluster", "tcp://127.0.0.1:9")
    assert gone.code == 4
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in gone.err
    (place := tmp_path / "cluster").mkdir()
    with cluster(place, workers=0) as started:
        idle = rebasin("align", "m0.safetensors", *NAMES, "-o", "out", "--cluster", started.file)
    assert idle.code == 4
    assert "has no worker" in idle.err
    assert "dask worker" in idle.err
    assert held(seeds / "out") == {}


def test_another_version_on_a_worker_is_refused(rebasin: Rebasin, seeds: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "rebasin_cli", tmp_path / "other" / "rebasin_cli", ignore=shutil.ignore_patterns("*.pyc"))
    start = tmp_path / "other" / "rebasin_cli" / "__init__.py"
    text = start.read_text()
    start.write_text(text.replace(f'__version__ = "{ours.rebasin_cli.__version__}"', '__version__ = "0.0.7"'))
    (place := tmp_path / "cluster").mkdir()
    with cluster(place, workers=0) as started:
        started.add_worker(surroundings={"PYTHONPATH": str(tmp_path / "other")})
        started.wait(1)
        done = rebasin("align", "m0.safetensors", *NAMES, "-o", "out", "--cluster", started.file)
    assert done.code == 4
    assert "a worker has rebasin 0.0.7" in done.err
    assert held(seeds / "out") == {}


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="a path that is another file in every process")
@pytest.mark.parametrize(
    ("there", "said"), [(None, "cannot be read"), (7, "holds another file")], ids=["absent", "another"]
)
def test_a_worker_that_sees_other_files_is_refused(
    rebasin: Rebasin, seeds: Path, two: Cluster, there: int | None, said: str
) -> None:
    elsewhere = two.file.parent / "m1.safetensors"
    if there is not None:
        save(elsewhere, mlp_state(there, WIDTHS))
    own = "/proc/self/cwd/m1.safetensors"
    done = rebasin("align", "m0.safetensors", own, "m2.safetensors", "-o", "out", "--cluster", two.file)
    elsewhere.unlink(missing_ok=True)
    assert done.code == 4
    assert f"m1.safetensors: {said}" in done.err
    assert held(seeds / "out") == {}


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="a path that is another file in every process")
def test_outputs_go_into_one_folder_of_all(rebasin: Rebasin, seeds: Path, two: Cluster) -> None:
    (two.file.parent / "out").mkdir()
    done = rebasin("align", "m0.safetensors", *NAMES, "-o", "/proc/self/cwd/out", "--cluster", two.file)
    assert done.code == 4
    assert "the folder of outputs: cannot be read" in done.err
    assert held(seeds / "out") == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cluster", "nowhere"), "is no address"),
        (("--cluster", "local:0"), "from 1 to 1024"),
        (("--cluster", "local:2", "--time-budget", "3s"), "--time-budget ends"),
        (("--cluster", "local:2", "--on-interrupt", "save"), "--on-interrupt save ends"),
        (("--cluster", "local:2", "--method", "activations"), "--method activations"),
        (("--cluster", "local:2", "--network", "net:make"), "--network"),
    ],
)
def test_what_workers_cannot_do_is_refused(rebasin: Rebasin, seeds: Path, words: tuple[str, ...], said: str) -> None:
    done = rebasin("align", "m0.safetensors", *NAMES, "-o", "out", *words)
    assert done.code == 2, done.err
    assert said in done.err


def test_rerun_connects_to_no_scheduler_of_a_document(rebasin: Rebasin, seeds: Path, two: Cluster) -> None:
    done = rebasin("align", "m0.safetensors", "m1.safetensors", "-o", "b.safetensors", "--cluster", two.file)
    assert done.code == 0, done.err
    before = two.finished()
    again = rebasin("rerun", "b.rebasin.json")
    assert again.code == 0, again.err
    assert two.finished() == before


def test_functions_give_the_same_on_workers(seeds: Path, two: Cluster) -> None:
    before = two.finished()
    there = api.align("m0.safetensors", "m1.safetensors", restarts=3, cluster=str(two.file))
    assert two.finished() > before
    here = api.align("m0.safetensors", "m1.safetensors", restarts=3)
    assert all(torch.equal(here.permutation[dim], there.permutation[dim]) for dim in here.permutation)
    with pytest.raises(UsageError, match="in memory"):
        api.align(mlp_state(0, WIDTHS), "m1.safetensors", cluster=str(two.file))
