"""Help, completion and what is judged from headers answer at once: they import no torch, numpy or scipy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from rebasin_cli.report.codec import to_json
from tests.report.examples import INTERPOLATE
from tests.small import ROOT, command, environment, mlp_state, save

_HEAVY = {"torch", "numpy", "scipy", "safetensors", "matplotlib"}
_PROBE = """
import sys
sys.argv = ["rebasin", *{arguments!r}]
from rebasin_cli.cli import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
print("LOADED", *sorted({{name.split(".")[0] for name in sys.modules}}), file=sys.stderr)
sys.exit(code)
"""


def loaded(*arguments: str, **more: str) -> tuple[set[str], str, int]:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(arguments=list(arguments))],
        env=environment(**more), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("LOADED")]
    assert lines, done.stderr
    return set(lines[0].split()), done.stdout, done.returncode


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["align", "--help"],
        ["interpolate", "--help"],
        ["arch", "--help"],
        ["--version"],
        ["report", "-h"],
        [],
    ],
)
def test_help_is_light(arguments: list[str]) -> None:
    modules, out, code = loaded(*arguments)
    assert code == 0
    assert "rebasin" in out
    assert not modules & _HEAVY


def test_completion_is_light_and_knows_the_specs() -> None:
    surroundings = {
        "_REBASIN_COMPLETE": "complete_bash",
        "COMP_WORDS": "rebasin align --arch resnet",
        "COMP_CWORD": "3",
    }
    modules, out, code = loaded(**surroundings)
    assert code == 0
    assert "resnet-basic" in out.split()
    assert not modules & _HEAVY


_LOOKING = """
import contextlib, inspect, io, sys
from rebasin_cli.cli import main
ran = set()
def note(frame, event, _):
    if frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # a function: bodies of modules and classes run when imported
        ran.add(frame.f_code.co_filename)
sys.setprofile(note)
for arguments in {commands!r}:
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    print(code, *sorted({{name.split(".")[0] for name in sys.modules}} & {heavy!r}), flush=True)
sys.setprofile(None)
print(sum(name.split(".")[0] == "rebasin_cli" for name in sys.modules), sum("/rebasin_cli/" in name for name in ran))
"""


def looked(
    commands: Sequence[Sequence[object]], folder: Path
) -> tuple[list[tuple[int, set[str]]], tuple[int, int], str]:
    """Codes and heavy modules after each command, all in one process; how many modules of ours were imported, and from
    how many files functions ran; stderr."""
    words = [list(map(str, arguments)) for arguments in commands]
    done = subprocess.run(
        [sys.executable, "-c", _LOOKING.format(commands=words, heavy=_HEAVY)],
        env=environment(), cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    *lines, counts = done.stdout.split("\n")[:-1]
    imported, ran = map(int, counts.split())
    return [(int(line.split()[0]), {*line.split()[1:]}) for line in lines], (imported, ran), done.stderr


def test_looking_is_light(tmp_path: Path) -> None:
    document = tmp_path / "run.json"
    document.write_text(to_json(INTERPOLATE))
    commands = [
        ["--help"], ["align", "--help"], ["arch", "list"], ["arch", "show", "llama"], ["arch", "show", "absent"],
        ["arch", "show", "mlp", "--set", "n=0"], ["report", document], ["report", document, "--html", "-"],
        ["report", "absent.json"], ["align", "a", "b", "--seed", "-1"], ["align", "a", "b", "-o", ""],
    ]  # fmt: skip
    found, _, err = looked(commands, tmp_path)
    assert [code for code, _ in found] == [0, 0, 0, 0, 2, 2, 0, 0, 4, 2, 2], err
    assert not found[-1][1]


AB = ("a.safetensors", "b.safetensors")
HEADERS = {
    ("inspect", "a.safetensors"): 0,
    ("inspect", "a.pt"): 0,
    ("inspect", "absent.safetensors"): 4,
    ("arch", "check", "mlp", "a.safetensors"): 0,
    ("arch", "show", "mlp", "a.safetensors"): 0,
    ("align", *AB, "--dry-run"): 0,
    ("align", "a.pt", "b.safetensors", "--dry-run"): 0,
    ("align", *AB, "--dry-run", "--quality", "high", "--threads", "2"): 0,
    ("interpolate", *AB, "--dry-run", "--device", "cpu"): 0,
    ("interpolate", *AB, "--at", "0.5", "-o", "half.safetensors", "--dry-run", "--device", "cpu"): 0,
    ("merge", *AB, "-o", "mean.safetensors", "--dry-run", "--device", "cpu"): 0,
    # no architecture fits, shapes differ, a file is absent, an output exists, a method lacks data, no such names
    ("align", "odd.safetensors", "odd.safetensors"): 3,
    ("align", "a.safetensors", "wide.safetensors"): 3,
    ("align", "a.safetensors", "absent.safetensors"): 4,
    ("align", *AB, "-o", "odd.safetensors"): 2,
    ("align", *AB, "--method", "ste"): 2,
    ("align", *AB, "--data", "d.npz", "--method", "ste", "--loss", "none"): 2,
    ("align", *AB, "--data", "d.npz", "--normalise", "none"): 2,
    ("merge", "a.safetensors", "wide.safetensors", "-o", "mean.safetensors", "--device", "cpu"): 3,
    ("apply", "absent.safetensors", "a.safetensors", "-o", "c.safetensors"): 4,
    ("apply", "a.safetensors", "a.safetensors", "-o", "c.safetensors"): 3,
    ("repair", "absent.safetensors", "--data", "d.npz", "--device", "cpu"): 4,
}


def test_headers_are_judged_without_torch(tmp_path: Path) -> None:
    save(tmp_path / AB[0], mlp_state(0))
    save(tmp_path / AB[1], mlp_state(1))
    save(tmp_path / "wide.safetensors", mlp_state(1, (32, 9, 8, 16)))
    save(tmp_path / "odd.safetensors", {"odd": torch.zeros(3, 2)})
    torch.save(mlp_state(0), tmp_path / "a.pt")
    found, (imported, _), err = looked(list(HEADERS), tmp_path)
    assert [code for code, _ in found] == list(HEADERS.values()), err
    assert not found[-1][1], dict(zip(HEADERS, found, strict=True))
    assert imported <= 122, "of all these commands together"


def test_align_loads_the_modules_it_needs(tmp_path: Path) -> None:
    """Neither methods that were not chosen, nor networks, nor scipy."""
    save(tmp_path / AB[0], mlp_state(0))
    save(tmp_path / AB[1], mlp_state(1))
    ((code, heavy),), (imported, ran), err = looked([("align", *AB)], tmp_path)
    assert code == 0, err
    assert heavy == {"torch", "numpy"}
    assert imported <= 80
    assert ran <= 65


def test_a_signal_while_torch_is_loaded_counts(tmp_path: Path) -> None:
    """Some library swallows what comes as an exception."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "import os, signal, time\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.2)\nexcept BaseException:\n    pass\n"
        "raise ImportError('torch cannot be loaded', name='torch')\n"
    )
    save(tmp_path / AB[0], mlp_state(0))
    done = subprocess.run(
        command("align", AB[0], AB[0]), env=environment(PYTHONPATH=f"{tmp_path}:{ROOT}"), cwd=tmp_path,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
