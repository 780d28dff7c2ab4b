"""What goes to stdout, in which form and colours; and the command that a summary ends with."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rebasin_cli.cli import main
from rebasin_cli.safe_text import wrapped
from tests.cli.conftest import Rebasin

AB = ("a.safetensors", "b.safetensors")


def test_commands_that_feed_others_print_the_document(rebasin: Rebasin, pair: Path) -> None:
    assert rebasin("align", *AB).out.startswith("{")
    text = rebasin("align", *AB, "-f", "--format", "text").out
    assert text.startswith("B aligned onto A: cosine ")
    assert "\x1b" not in text


@pytest.mark.parametrize("call", [("inspect", AB[0]), ("arch", "list"), ("arch", "check", "mlp", AB[0])])
def test_commands_that_show_print_text_into_a_pipe(rebasin: Rebasin, pair: Path, call: tuple[str, ...]) -> None:
    assert not rebasin(*call).out.startswith("{")
    for asked in (("--json",), ("--format", "json"), ("--format=json",)):
        assert rebasin(*call, *asked).document["command"] == " ".join(call[: 1 + (call[0] == "arch")])


def test_nothing_is_printed_where_the_document_has_a_place(rebasin: Rebasin, pair: Path) -> None:
    assert rebasin("align", *AB, "--report", "r.json").out == ""
    assert rebasin("interpolate", *AB, "--steps", 3, "--report", "i.json").out == ""
    printed = rebasin("align", *AB, "-f", "--report", "r.json", "--json")
    assert printed.document["distance"] == json.loads(Path("r.json").read_text())["distance"]
    assert rebasin("interpolate", *AB, "--report", "r2.json", "--dry-run").document["plan"]
    assert not Path("r2.json").exists()


def test_a_report_to_stdout_is_no_file(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("align", *AB, "--report", "-")
    assert done.document["command"] == "align"
    assert sorted(path.name for path in pair.glob("*.json")) == []
    for form in (("--report", "-"), ("--json",), ("--format", "json")):
        refused = rebasin("align", *AB, "-f", "-o", "-", *form)
        assert refused.code == 2
        assert "both write to stdout" in refused.err
    assert rebasin("inspect", AB[0], "--json", "--format", "text").code == 2


class _Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """Run a command on a terminal of 80 columns: what is on stdout and stderr, without colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: object) -> tuple[str, str]:
        streams = _Terminal(), _Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            main([str(argument) for argument in arguments])
        return streams[0].getvalue(), streams[1].getvalue()

    return call


def next_words(text: str) -> list[str]:
    """The command that a summary ends with, without the program and with what it reads."""
    found = re.search(r"^  next +rebasin (.*)$", text, re.MULTILINE)
    assert found, text
    return shlex.split(found[1])


def test_the_next_command_works(shown: Callable[..., tuple[str, str]], rebasin: Rebasin, pair: Path) -> None:
    words = next_words(shown("align", *AB, "--dry-run", "--freeze", "h.0")[0])
    assert words == ["align", *AB, "--freeze", "h.0"]
    *words, sign, document = next_words(shown(*words)[0])
    assert (sign, document) == ("<", "b.rebasin.json")
    assert rebasin(*words, stdin=Path(document).read_bytes()).code == 0
    half = load_file("merged.safetensors")
    words = next_words(shown("interpolate", *AB, "--steps", 3, "--data", "data.npz", "--plot", "p.png", "-v")[0])
    assert words == [
        "interpolate",
        *AB,
        "--steps",
        "3",
        "--data",
        "data.npz",
        "--at",
        "best",
        "-o",
        "merged-2.safetensors",
    ]
    assert rebasin(*words).code == 0
    assert load_file("merged-2.safetensors").keys() == half.keys()
    words = next_words(shown("merge", *AB, "-o", "m.safetensors")[0])
    assert rebasin(*words).code == 0
    assert Path("m.rebasin.html").exists()
    assert rebasin(*next_words(shown("inspect", AB[0])[0])).code == 0


def test_no_next_command_after_a_pipe(shown: Callable[..., tuple[str, str]], rebasin: Rebasin, pair: Path) -> None:
    run = rebasin("align", *AB).out
    assert "next" not in rebasin("interpolate", "--steps", 3, "--format", "text", stdin=run.encode()).out


def test_errors_are_wrapped_at_words(shown: Callable[..., tuple[str, str]], pair: Path) -> None:
    _, told = shown("align", *AB, "--arch", "llama")
    lines = told.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line[:8] for line in lines if not line.startswith("   ")][-2:] == ["  where:", "  try:  "]
    assert "  try:   name the right spec with --arch, leave tensors alone with --ignore\n         PATTERN" in told
    command = "`rebasin " + "word " * 30 + "end`"
    assert command in wrapped("some words before " + command, 60)


def test_a_dumb_terminal_of_ascii(
    shown: Callable[..., tuple[str, str]], pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Terminal, "encoding", "ascii")
    monkeypatch.setenv("TERM", "dumb")
    out, err = shown("interpolate", *AB, "--steps", 3, "--data", "data.npz")
    assert (out + err).isascii()
    assert max(map(len, (err + out.partition("  next")[0]).splitlines())) <= 80
    assert "(option activation=...)" in err
    assert "ooo naive" in out


@pytest.mark.parametrize(
    ("arguments", "variables", "coloured"),
    [
        ((), {}, False),
        (("--color", "always"), {}, True),
        (("--color=always",), {"NO_COLOR": "1"}, True),
        ((), {"FORCE_COLOR": "1"}, True),
        ((), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (("--color", "never"), {"FORCE_COLOR": "1"}, False),
    ],
)
def test_colours_in_a_pipe(
    rebasin: Rebasin, pair: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...],
    variables: dict[str, str], coloured: bool,
) -> None:  # fmt: skip
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert ("\x1b[" in rebasin("inspect", AB[0], *arguments).out) is coloured
    assert ("\x1b[" in rebasin("inspect", "absent", *arguments).err) is coloured
    assert dict(os.environ) == before
