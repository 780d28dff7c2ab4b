"""The line on the terminal while the program is loaded."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.small import ROOT, command, environment, mlp_state, save

_LINE = "rebasin inspect: loading ..."
_GONE = "\r\x1b[K"


def on_terminal(*arguments: object, cwd: Path, **more: str) -> tuple[str, str]:
    """Run the program with stderr on a terminal; what comes on stdout and there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(**{"TERM": "xterm", **more}),
    )
    os.close(theirs)
    out, _ = process.communicate(timeout=60)
    shown = b""
    try:
        while data := os.read(ours, 4096):
            shown += data
    except OSError:  # the end of a terminal
        pass
    os.close(ours)
    return out.decode(), shown.decode().replace("\r\n", "\n")


def test_the_line_is_there_before_anything_is_imported(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ImportError('stopped here', name='typer')")
    _, shown = on_terminal("inspect", "a.safetensors", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert shown.startswith(f"{_LINE}{_GONE}error: rebasin cannot be loaded: stopped here\n")


def test_the_line_goes_before_anything_else_is_said(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", mlp_state(0))
    out, shown = on_terminal("inspect", "a.safetensors", cwd=tmp_path)
    assert out.startswith("6 tensors, mlp")
    assert shown == _LINE + _GONE
    _, shown = on_terminal("inspect", "absent.safetensors", cwd=tmp_path, NO_COLOR="1")
    assert shown.startswith(f"{_LINE}{_GONE}error: cannot read absent.safetensors")


@pytest.mark.parametrize(
    ("arguments", "surroundings"),
    [
        (["inspect", "a.safetensors", "--quiet"], {}),
        (["inspect", "-vq", "a.safetensors"], {}),
        (["inspect", "-h"], {}),
        (["arch"], {}),
        (["--version"], {}),
        (["inspect", "a.safetensors"], {"TERM": "dumb"}),
    ],
)
def test_where_there_is_no_line(
    arguments: list[str], surroundings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rebasin_cli import process

    ours, theirs = pty.openpty()
    stderr = os.dup(2)
    for name, value in ({"TERM": "xterm"} | surroundings).items():
        monkeypatch.setenv(name, value)
    try:
        os.dup2(theirs, 2)
        process.show_waiting(arguments)
        process.end_waiting()
        os.write(2, b"end")
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    assert os.read(ours, 100) == b"end"
    os.close(theirs)
    os.close(ours)
