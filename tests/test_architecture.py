"""ARCHITECTURE.md is true: its files exist, its walk is the one that is taken, and constants stand where it says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.small import ROOT, environment, mlp_state, save

PAGE = (ROOT / "ARCHITECTURE.md").read_text()
PACKAGE = ROOT / "rebasin_cli"

_TRACED = """
import contextlib, inspect, io, sys
from rebasin_cli.cli import main
entered = {}
def note(frame, event, _):
    is_function = frame.f_code.co_flags & inspect.CO_OPTIMIZED  # bodies of modules and classes run when imported
    if is_function and "/rebasin_cli/" in frame.f_code.co_filename:
        entered.setdefault(frame.f_code.co_filename.split("/rebasin_cli/")[-1])
sys.setprofile(note)
with contextlib.redirect_stdout(io.StringIO()):
    main(["align", "a.safetensors", "b.safetensors"])
sys.setprofile(None)
print(*entered)
"""


def section(title: str) -> str:
    """The part of the page under a heading."""
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_files_of_the_page_are_there() -> None:
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", PAGE))
    assert len(named) > 40
    places = [PACKAGE, ROOT, PACKAGE / "api", PACKAGE / "derivation"]
    assert not [name for name in named if not any((place / name).exists() for place in places)]


def test_the_walk_is_the_one_that_is_taken(tmp_path: Path) -> None:
    """At most ten files, entered one after the other; `reference.py` is only what the fast one is compared with."""
    walk = re.findall(r"`([\w/]+\.py)`", section("The walk of `rebasin align A B`"))
    walk.remove("matching/reference.py")
    assert len(walk) <= 10
    save(tmp_path / "a.safetensors", mlp_state(0))
    save(tmp_path / "b.safetensors", mlp_state(1))
    done = subprocess.run(
        [sys.executable, "-c", _TRACED],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    entered = done.stdout.split("\n")[-2].split()
    assert [name for name in entered if name in walk] == walk


def test_the_constants_stand_where_the_page_says() -> None:
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \| [^|]+ \| `([\w/.]+)`", section("Tuned constants"), re.MULTILINE)
    assert len(rows) > 15
    for names, place in rows:
        files = [PACKAGE / place] if place.endswith(".py") else sorted((PACKAGE / place).glob("*.py"))
        text = "\n".join(file.read_text() for file in files)
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^_?{name}\b.*= |^_?{name}\b, .*= |, _?{name}\b.* = ", text, re.MULTILINE), (name, place)


def test_the_layers_of_the_page_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["name"] == "imports go down only")
    held = [name.strip().removeprefix("rebasin_cli.") for layer in layers for name in layer.split("|")]
    block = section("Layers").split("```")[1]
    begins = [re.match(r"[a-z_]+", line.strip()) for line in block.strip().splitlines()]
    shown = [begin[0] for begin in begins if begin]
    assert [name for name in held if name in shown] == shown
    assert all(re.search(rf"\b{name}\b", block) for name in held)
