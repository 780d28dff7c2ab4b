"""Help and completion answer at once: they import no torch, numpy or scipy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rebasin_cli.report.codec import to_json
from tests.report.examples import INTERPOLATE
from tests.small import environment

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
import contextlib, io, sys
from rebasin_cli.cli import main
for arguments in {commands!r}:
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    print(code, *sorted({{name.split(".")[0] for name in sys.modules}} & {heavy!r}), flush=True)
"""


def test_looking_is_light(tmp_path: Path) -> None:
    """One process, which lists after each command what is loaded by then; only the last one reads a checkpoint."""
    document = tmp_path / "run.json"
    document.write_text(to_json(INTERPOLATE))
    commands = [
        ["--help"], ["align", "--help"], ["arch", "list"], ["arch", "show", "llama"], ["arch", "show", "absent"],
        ["arch", "show", "mlp", "--set", "n=0"], ["report", str(document)], ["report", str(document), "--html", "-"],
        ["report", str(tmp_path / "absent.json")], ["align", "a", "b", "--seed", "-1"], ["align", "a", "b", "-o", ""],
        ["inspect", str(tmp_path / "absent.safetensors")],
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", _LOOKING.format(commands=commands, heavy=_HEAVY)],
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    codes, modules = zip(*(line.split(" ", 1) for line in done.stdout.replace("\n", " \n").splitlines()), strict=True)
    assert codes == ("0", "0", "0", "0", "3", "2", "0", "0", "4", "2", "2", "4"), done.stderr
    assert set(modules[:-1]) == {""}
    assert "torch" in modules[-1]
    assert "scipy" not in modules[-1]


def test_a_command_that_works_does_import_torch(tmp_path: Path) -> None:
    """The probe can see it."""
    modules, _, code = loaded("inspect", str(tmp_path / "absent.safetensors"))
    assert code == 4
    assert "torch" in modules
