"""One form for every failure, and the exit code of each kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rebasin_cli.cli.values import pairs
from rebasin_cli.errors import ContentError, GateError, RebasinError, SystemFailure, UsageError
from rebasin_cli.pipeline import architectures
from tests.cli.conftest import Rebasin
from tests.small import environment, save_pair


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    ("failure", "code", "says"),
    [
        (GateError("what"), 1, "error: what\n"),
        (UsageError("what", remedy="this"), 2, "error: what\n  try:   this\n"),
        (ContentError("what", where="there", remedy="this"), 3, "error: what\n  where: there\n  try:   this\n"),
        (SystemFailure("what", where="there"), 4, "error: what\n  where: there\n"),
        (RebasinError("two\nlines"), 3, "error: two\n    lines\n"),
        (PermissionError(13, "Permission denied", "x.bin"), 4, "error: Permission denied: x.bin\n"),
        (MemoryError(), 4, "error: there is not enough memory\n"),
        (OutOfMemoryError("CUDA"), 4, "error: there is not enough memory\n"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 4, "error: there is not enough memory\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (ZeroDivisionError("oh"), 70, "error: this is a bug in rebasin: ZeroDivisionError: oh\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_form_and_code(
    rebasin: Rebasin, monkeypatch: pytest.MonkeyPatch, failure: BaseException, code: int, says: str
) -> None:
    monkeypatch.setattr(architectures, "list_architectures", _raising(failure))
    done = rebasin("arch", "list")
    assert done.code == code
    assert done.err.startswith(says)
    assert "Traceback" not in done.err
    assert done.out == ""
    debugged = rebasin("arch", "list", "--debug")
    assert debugged.code == code
    assert ("Traceback" in debugged.err) != isinstance(failure, KeyboardInterrupt)


def test_a_bug_asks_to_be_reported(rebasin: Rebasin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "list_architectures", _raising(ZeroDivisionError("oh")))
    err = rebasin("arch", "list").err
    assert "test_errors.py:" in err
    assert "please report it" in err


def test_the_parsers_own_errors_have_the_same_form(rebasin: Rebasin) -> None:
    err = rebasin("arch", "list", "--wings").err
    assert err.startswith(
        "error: there is no option `--wings`\n  where: rebasin arch list\n  try:   `rebasin arch list --help`"
    )
    err = rebasin("align", "a", "b", "--seed", "many").err
    assert err.startswith("error: invalid value for '--seed'")
    assert rebasin("wings").err.startswith("error: there is no command `wings`\n  where: rebasin\n")


def test_no_command_shows_the_help(rebasin: Rebasin) -> None:
    for arguments in ((), ("arch",)):
        done = rebasin(*arguments)
        assert done.code == 0
        assert "Usage: rebasin" in done.out


def test_the_version(rebasin: Rebasin) -> None:
    done = rebasin("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("rebasin ")


def test_pairs() -> None:
    assert pairs("--set", ["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    assert pairs("--set", None) == {}
    for bad in (["a"], ["=1"], ["a="], ["a=1", "a=2"]):
        with pytest.raises(UsageError):
            pairs("--set", bad)


def _raising(failure: BaseException) -> Callable[[str], None]:
    def act(word: str) -> None:
        raise failure

    return act


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("algin",), ("there is no command `algin`", "where: rebasin\n", "did you mean `align`?")),
        (("arch", "lst"), ("there is no command `lst`", "where: rebasin arch\n", "did you mean `list`?")),
        (("align", "a", "b", "--metod", "x"), ("no option `--metod`", "did you mean `--method`?", "align --help`")),
        (("align", "a", "b", "--learn", "1"), ("no option `--learn`", "did you mean `--learning-rate`?")),
        (("align", "a", "b", "--fit-size", "1"), ("no option `--fit-size`", "`--fit-batch-size`")),
        (("align", "a", "b", "--method", "weigths"), ("'weigths' is not one of 'weights'", "did you mean `weights`?")),
        (("interpolate", "a", "b", "c"), ("more than `interpolate` takes: c", "`rebasin merge` takes several models")),
        (("wings",), ("there is no command `wings`", "try:   `rebasin --help` shows the usage")),
    ],
)
def test_what_was_probably_meant(rebasin: Rebasin, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    done = rebasin(*arguments)
    assert done.code == 2
    for part in parts:
        assert part in done.err


def test_a_missing_torch_is_told_with_what_to_install(tmp_path: Path) -> None:
    """Headers are judged without it, and what works on tensors says that it is not there."""
    save_pair(tmp_path)
    code = "import sys; sys.modules['torch'] = None\nfrom rebasin_cli.cli import main\nsys.exit(main(sys.argv[1:]))"
    for words, expected in (
        (["align", "a.safetensors", "b.safetensors", "--dry-run"], 0),
        (["align", "a.safetensors", "b.safetensors"], 4),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, env=environment()
        )
        assert done.returncode == expected, done.stderr
    assert "this needs torch" in done.stderr
    assert not (tmp_path / "b.aligned.safetensors").exists()
