"""Kills and signals in the middle of writing.

A warm process forks a child for every attempt. The child counts calls and returns in the code that writes and file
operations in its folder, and sends itself a signal at the n-th. Then the folder is looked at: every file has to be the
old one or the new one, a set of files of one run or refused by the command that reads it, and the next run has to
leave nothing of the killed one behind.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from rebasin_cli.cli import main
from tests.checkpoints.building import write_sharded
from tests.small import mlp_state, save, shuffled
from tests.torture.attempt import run_forked
from tests.torture.judging import Row

WRITING = ("writer.py", "outputs.py", "places.py", "rebasin_cli/files.py", "points.py")
OPERATIONS = ("write", "fsync", "rename", "replace", "mkdir", "unlink", "link", "rmdir", "symlink", "open", "close")
FILE_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "shutil.rmtree"}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass
class Counts:
    """What came of one scenario.

    Attributes:
        attempts: runs that a signal ended; torn: files that are neither old nor new.
        mixed: sets with files of two runs; untold: those of them that the next command takes without a word.
        leftovers: temporary files that are still there after the next run; dirty: those left at once by a signal
            that can be handled.
        lost: files of the user's own that are gone, or modes that changed; codes: exit codes other than promised.
    """

    scenario: str
    attempts: int = 0
    torn: int = 0
    mixed: int = 0
    untold: int = 0
    leftovers: int = 0
    dirty: int = 0
    lost: int = 0
    codes: int = 0


def attempt(arguments: list[str], folder: Path, number: int, at: int, told: Path | None = None) -> tuple[int, bool]:
    """Run the program in a child that gets signal `number` at its `at`-th operation; exit code, whether it got it.

    Args:
        told: a file for the number of operations; None: without.
    """

    def action() -> int:
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        strike = Strike(folder, number, at)
        if at or told:
            strike.begin()
        code = 70
        try:
            code = main(arguments)
        finally:
            sys.setprofile(None)
            gc.collect()  # as at the end of an interpreter, which os._exit leaves out
            if told:
                told.write_text(str(strike.count))
        return code + 100 * (code < 100 and strike.sent)  # a signal that came too late to matter shows as 1xx

    code = run_forked(action).code
    return (128 - code, True) if code < 0 else (code, code >= 100)


@dataclass
class Strike:
    """Counts operations, and sends a signal at one of them."""

    folder: Path
    number: int
    at: int
    count: int = 0
    sent: bool = False

    def begin(self) -> None:
        """Count from now on."""
        ours: dict[str, bool] = {}  # of a source file, whether it is one that writes

        def profile(frame: Any, event: str, argument: Any) -> None:
            source = frame.f_code.co_filename
            if source not in ours:
                ours[source] = "rebasin_cli" in source and source.endswith(WRITING)
            if ours[source] and (event in ("call", "return") or getattr(argument, "__name__", "") in OPERATIONS):
                self._tick()

        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            if event in FILE_EVENTS and str(arguments[0]).startswith(str(self.folder)):
                self._tick()

        sys.addaudithook(audit)
        sys.setprofile(profile)

    def _tick(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.sent = True
            os.kill(os.getpid(), self.number)


# -- scenarios: a folder with old outputs, the command that replaces them, and how the result is looked at ---------


@dataclass
class Scenario:
    """`look` gives, for the state after an attempt: torn files, whether runs are mixed, whether that is not told."""

    name: str
    arguments: list[str]
    prepare: Callable[[Path], None]
    look: Callable[[Path], tuple[int, bool, bool]]


def _inputs(folder: Path) -> None:
    """Two pairs: the old one, whose outputs are there, and the new one."""
    for seed in (0, 1):
        state = mlp_state(seed)
        save(folder / f"a{seed}.safetensors", state)
        save(folder / f"b{seed}.safetensors", shuffled(state, seed + 5))
        halves = {
            f"model-0000{i + 1}-of-00002.safetensors": {k: t for k, t in shuffled(state, seed + 5).items() if test(k)}
            for i, test in enumerate((lambda k: k.startswith("fc.0"), lambda k: not k.startswith("fc.0")))
        }
        write_sharded(folder / f"m{seed}", halves)


def _files(folder: Path) -> None:
    _inputs(folder)
    _run(folder, "align", "a0.safetensors", "b0.safetensors", "-o", "out.safetensors")
    (folder / "out.safetensors").chmod(0o600)


def _shards(folder: Path) -> None:
    _inputs(folder)
    _run(folder, "align", "a0.safetensors", "m0", "-o", "out")
    (folder / "out" / "notes.txt").write_text("mine")


def _points(folder: Path) -> None:
    _inputs(folder)
    _run(folder, "interpolate", "a0.safetensors", "b0.safetensors", "--steps", "3", "-o", "points")
    (folder / "points" / "notes.txt").write_text("mine")


def _look_files(folder: Path) -> tuple[int, bool, bool]:
    runs = [_run_of(folder / "out.safetensors"), _run_of(folder / "out.permutation.safetensors")]
    try:
        document = json.loads((folder / "out.rebasin.json").read_text())
        runs.append(document["inputs"]["b"]["sha256"])
    except (OSError, ValueError, KeyError):
        runs.append(None)
    mixed = len(set(runs)) > 1
    untold = False
    if mixed:
        taken = _run(folder, "apply", "out.permutation.safetensors", "b1.safetensors", "-o", "applied.safetensors")
        untold = taken == 0
    return runs.count(None), mixed, untold


def _look_shards(folder: Path) -> tuple[int, bool, bool]:
    shards = sorted((folder / "out").glob("model-*.safetensors"))
    runs = [_run_of(path) for path in shards]
    mixed = len(set(runs)) > 1 or len(runs) < 2
    untold = mixed and _run(folder, "inspect", "out") == 0
    return runs.count(None), mixed, untold


def _look_points(folder: Path) -> tuple[int, bool, bool]:
    runs = [_run_of(path) for path in sorted((folder / "points").glob("lam-*"))]
    mixed = len(set(runs)) > 1
    arguments = (
        "interpolate",
        "a1.safetensors",
        "b1.safetensors",
        "--steps",
        "3",
        "-o",
        "points",
        "--report",
        "r.json",
    )
    untold = False
    if _run(folder, *arguments) == 0:  # it went on: all of them have to be of the new run by now
        after = {_run_of(path) for path in (folder / "points").glob("lam-*")}
        untold = len(after) > 1
    elif mixed:
        untold = not (folder / "points" / "rebasin-points.json").exists()
    (folder / "r.json").unlink(missing_ok=True)
    return runs.count(None), mixed, untold


SCENARIOS = (
    Scenario(
        "files", ["align", "a1.safetensors", "b1.safetensors", "-o", "out.safetensors", "--force"], _files, _look_files
    ),
    Scenario("shards", ["align", "a1.safetensors", "m1", "-o", "out", "--force"], _shards, _look_shards),
    Scenario(
        "points",
        ["interpolate", "a1.safetensors", "b1.safetensors", "--steps", "3", "-o", "points", "--force"],
        _points,
        _look_points,
    ),
)


def _run_of(path: Path) -> str | None:
    """The hash of B that a file was made from; None if it is torn or absent."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            for key in file.keys():  # noqa: SIM118 (no mapping)
                file.get_tensor(key)
    except Exception:
        return None
    found: str = metadata.get("rebasin.inputs.b") or json.loads(metadata["inputs"])["b"]
    return found


def _run(folder: Path, *arguments: str) -> int:
    """Run to the end, in a child as well, so that nothing of it stays here."""
    code, _ = attempt(list(arguments), folder, 0, 0)
    return code


@contextmanager
def _fresh(prepared: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="torture-") as top:
        folder = Path(top) / "work"
        shutil.copytree(prepared, folder, symlinks=True)
        yield folder


def hidden(folder: Path) -> int:
    """Temporary files and locks below a folder."""
    return sum(
        path.name.startswith(".") and ("partial" in path.name or "lock" in path.name) for path in folder.rglob("*")
    )


def torture(scenario: Scenario, most: int) -> Counts:
    """Attack one scenario at up to `most` operations, evenly spread, with each signal in turn."""
    counts = Counts(scenario.name)
    with tempfile.TemporaryDirectory(prefix="torture-") as top:
        prepared = Path(top) / "prepared"
        prepared.mkdir()
        scenario.prepare(prepared)
        prepared = prepared.rename(Path(top) / "kept")  # what documents name is not there any more
        last = _operations(scenario, prepared)
        places = sorted({1 + round(i * (last - 1) / max(1, most - 1)) for i in range(most)})
        for turn, at in enumerate(places):
            number = SIGNALS[0] if turn % 2 == 0 else SIGNALS[1 + turn // 2 % 3]
            with _fresh(prepared) as folder:
                _judge(scenario, folder, number, at, counts)
    return counts


def _operations(scenario: Scenario, prepared: Path) -> int:
    """How many operations a whole run has."""
    with _fresh(prepared) as folder, tempfile.NamedTemporaryFile() as told:
        attempt(scenario.arguments, folder, 0, 0, Path(told.name))
        return int(Path(told.name).read_text())


def warm() -> None:
    """Import everything that a run needs, so that children have it."""
    with tempfile.TemporaryDirectory(prefix="torture-") as top, open(os.devnull, "w") as null:
        folder = Path(top)
        _inputs(folder)
        pair = [str(folder / name) for name in ("a0.safetensors", "b0.safetensors")]
        with contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
            main(["align", *pair, "-o", f"{folder}/o.safetensors"])
            main(["apply", f"{folder}/o.permutation.safetensors", pair[1], "-o", f"{folder}/p.safetensors"])
            main(["interpolate", *pair, "--at", "0.5", "-o", f"{folder}/q.safetensors"])
            main(["inspect", pair[0]])


def _judge(scenario: Scenario, folder: Path, number: int, at: int, counts: Counts) -> None:
    code, struck = attempt(scenario.arguments, folder, number, at)
    counts.attempts += struck
    if number != signal.SIGKILL:
        counts.dirty += hidden(folder) > 0
        counts.codes += code not in (128 + number, 100, 0)
    torn, mixed, untold = scenario.look(folder)
    counts.torn += torn if scenario.name != "points" else 0
    counts.mixed += mixed
    counts.untold += untold
    (folder / "applied.safetensors").unlink(missing_ok=True)
    (folder / "applied.rebasin.json").unlink(missing_ok=True)
    counts.codes += _run(folder, *scenario.arguments) != 0
    counts.leftovers += hidden(folder)
    after = scenario.look(folder) if scenario.name != "points" else (0, False, False)
    counts.torn += after[0]
    counts.mixed += after[1]
    notes = [path for path in folder.glob("*/notes.txt") if path.read_text() == "mine"]
    counts.lost += scenario.name != "files" and len(notes) != 1
    counts.lost += scenario.name == "files" and (folder / "out.safetensors").stat().st_mode & 0o777 != 0o600


def run(most: int, only: str = "") -> Iterator[Row]:
    """All scenarios, as rows of the table of all attacks."""
    torch.set_num_threads(1)
    warm()
    for scenario in SCENARIOS:
        if scenario.name.startswith(only):
            counts = torture(scenario, most)
            row = Row(f"files: {scenario.name}", counts.attempts)
            told = {"codes": counts.codes, "torn": counts.torn + counts.untold + counts.lost}
            for counter, found in {**told, "left": counts.leftovers + counts.dirty}.items():
                for _ in range(found):
                    row.count(counter, f"files {scenario.name}", " ".join(scenario.arguments), f"see {asdict(counts)}")
            yield row
