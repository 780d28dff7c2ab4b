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

from rebasin_cli.cli.examples import EXAMPLES
from rebasin_cli.cli.main import program
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
    for example in EXAMPLES[" ".join(path)]:
        for line in example.split("\n"):
            assert line.strip() in done.out


def test_flags_are_plain() -> None:
    for path, command in COMMANDS.items():
        for param in command.params:
            assert not param.secondary_opts, (path, param.name)
            assert not getattr(param, "is_flag", False) or "bool" not in str(param.metavar)


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
    for example in dict.fromkeys(line for lines in EXAMPLES.values() for line in lines):
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
