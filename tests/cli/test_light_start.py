"""Help and completion answer at once: they import no torch, numpy or scipy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


def test_a_command_that_works_does_import_torch(tmp_path: Path) -> None:
    """The probe can see it."""
    modules, _, code = loaded("inspect", str(tmp_path / "absent.safetensors"))
    assert code == 4
    assert "torch" in modules
