"""The program in this process: `main()` with captured streams, for everything that needs no pipe or signal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rebasin_cli.cli import main
from tests.small import save_pair


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Rebasin = Callable[..., Outcome]


class _Stdin(io.TextIOWrapper):
    def isatty(self) -> bool:
        return False


@pytest.fixture
def rebasin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Rebasin]:
    """Call `rebasin ARGUMENTS`; stdout is a pipe, so that it carries the document."""

    def call(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr("sys.stdin", _Stdin(io.BytesIO(stdin)))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    threads = torch.get_num_threads()
    yield call
    torch.set_num_threads(threads)  # --threads is for the rest of a process
    for name, module in list(sys.modules.items()):  # a process of its own would not know them either
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the current one, with a.safetensors, b.safetensors (A shuffled) and data.npz."""
    save_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, from which modules are imported; nothing is remembered from before."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def networks_of(code: str) -> dict[str, Callable[[], nn.Module]]:
    """The classes of a module's code, by name."""
    found: dict[str, Any] = {}
    exec(code, found)
    return found


def same_tensors(one: str, two: str) -> bool:
    """Whether two safetensors files hold the same values under the same names."""
    first, second = load_file(one), load_file(two)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
