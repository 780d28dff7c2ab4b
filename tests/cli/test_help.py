"""`--help` at 80 columns: nothing cut, flags without values, and examples that work."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.main import get_command

from rebasin_cli.cli import program
from rebasin_cli.cli.help import DAILY, EXAMPLES
from rebasin_cli.cli.values import MEANINGS
from tests.cli.conftest import Rebasin
from tests.small import DATA, save, shuffled

_MODULE = """
import torch

def make(state=None):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.ModuleList([torch.nn.Linear(64, 12), torch.nn.Linear(12, 10)])
        def forward(self, x):
            return self.fc[1](torch.relu(self.fc[0](x)))
    return Net(), torch.randn(4, 64)
"""


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words."""
    command = command or get_command(program())
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_nothing_is_cut_at_80_columns(rebasin: Rebasin, monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = rebasin(*path, "--help")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    words = set(re.findall(r"[^\s│]+", done.out))
    for param in COMMANDS[path].params:
        assert set(param.opts[:1] if param.opts[0].startswith("-") else ()) <= words
        said = {word.strip("'\"") for word in re.sub(r"\\(?=\[)", "", param.help or "").split()}
        assert said <= {word.strip("'\"") for word in words}, param.name
        assert not param.metavar or set(param.metavar.split()) <= words, param.name
    assert "list[none" not in done.out
    for what, example in EXAMPLES[" ".join(path)].items():
        for line in (what, *example.split("\n")):
            assert line.strip() in done.out


def test_flags_are_plain() -> None:
    for path, command in COMMANDS.items():
        for param in command.params:
            assert not param.secondary_opts, (path, param.name)
            assert not getattr(param, "is_flag", False) or "bool" not in str(param.metavar)


def test_h_is_the_short_form(rebasin: Rebasin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    short, whole = rebasin("interpolate", "-h").out, rebasin("interpolate", "--help").out
    assert 2 * len(short.splitlines()) < len(whole.splitlines())
    for option in ("--data", "--output", "--at", "--plot", "--force"):
        assert option in short
    assert "--momentum" not in short
    assert "--momentum" in whole
    said = " ".join(re.sub("│", " ", short).split())
    assert f"--help: all {len(COMMANDS[('interpolate',)].params) - 2 + 1}." in said  # without A and B, with itself
    assert rebasin("inspect", "-h").out == rebasin("inspect", "--help").out  # has few
    used = {param.name for command in COMMANDS.values() for param in command.params} | {"help"}
    assert used >= DAILY


def test_help_is_a_command_too(rebasin: Rebasin) -> None:
    for path in ((), ("align",), ("arch", "list")):
        assert rebasin("help", *path).out == rebasin(*path, "--help").out
    wrong = rebasin("help", "alin")
    assert wrong.code == 2
    assert "did you mean" in wrong.err


def test_options_of_all_commands_may_stand_before(rebasin: Rebasin, pair: Path) -> None:
    named = ("align", "a.safetensors", "b.safetensors")
    done = rebasin("--quiet", "--format", "text", *named)
    assert done.code == 0, done.err
    assert not done.err
    assert done.out.startswith("cosine") or "aligned" in done.out
    assert rebasin("-q", "--color=never", "arch", "list", "mlp").out == rebasin("arch", "list", "mlp", "-q").out
    assert rebasin("rerun", "b.rebasin.json").code == 0  # the command line of the document begins with the command
    for words in (("--quiet",), ("--json", "--absent", "align"), ("--color", "never")):
        assert rebasin(*words).code == 2


def test_every_choice_says_what_it_means() -> None:
    for kind, meanings in MEANINGS.items():
        assert set(meanings) <= {*map(str, kind), *_METHODS_ELSEWHERE}
    shown = [param.help or "" for command in COMMANDS.values() for param in command.params]
    for kind, meanings in MEANINGS.items():
        for word in set(meanings) & set(map(str, kind)):
            assert any(f"{word}: {meanings[word]}" in text for text in shown), (kind, word)


_METHODS_ELSEWHERE = {"ste"}  # one table for both kinds of methods


def test_every_command_has_examples() -> None:
    assert list(EXAMPLES) == [" ".join(path) for path in COMMANDS]


def test_the_examples_work(rebasin: Rebasin, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one folder, one after the other, as a reader would."""
    for name in "ab":
        shutil.copy(DATA / f"digits_mlp_{name}.safetensors", f"{name}.safetensors")
    save(Path("c.safetensors"), shuffled(load_file("a.safetensors"), 3))
    shutil.copy(DATA / "digits.npz", "digits.npz")
    Path("my_module.py").write_text(_MODULE)
    monkeypatch.setattr(sys, "path", [str(workplace), *sys.path])
    for example in dict.fromkeys(line for lines in EXAMPLES.values() for line in lines.values()):
        piped = b""
        for part in example.replace("\\\n", " ").split(" | "):
            program_name, *words = shlex.split(part)
            if program_name == "jq":
                assert piped.startswith(b"{")
                continue
            if "<" in words:
                *words, _, file = words
                piped = Path(file).read_bytes()
            if ">" in words:
                words = words[: words.index(">")]
            if words == ["align", "a.safetensors", "b.safetensors"]:
                words.append("-f")  # is an example twice
            done = rebasin(*words, stdin=piped)
            assert done.code == 0, (example, done.err)
            piped = done.out.encode(errors="surrogateescape")
