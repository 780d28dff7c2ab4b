"""README, docs, CHANGELOG and --help say what is true."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from typer.main import get_command

import rebasin_cli
from rebasin_cli.cli import program
from rebasin_cli.errors import ContentError, GateError, RebasinError, SystemFailure, UsageError
from tests import options
from tests.examples import PAGES, ROOT, examples
from tests.families import PAGE as FAMILIES
from tests.families import current, table


def rebasin_calls(line: str) -> list[list[str]]:
    """The calls of rebasin in a shell line."""
    words = shlex.split(line, comments=True)
    calls: list[list[str]] = []
    for at, word in enumerate(words):
        if word == "rebasin":
            rest = words[at + 1 :]
            end = next((i for i, w in enumerate(rest) if w in ("|", "||", "&&", ";")), len(rest))
            calls.append(rest[:end])
    return calls


CALLS = [call for page in PAGES for each in examples(page.read_text()) for call in rebasin_calls(each.line)]


def test_the_documents_have_commands() -> None:
    assert len(CALLS) > 30


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_command_of_the_documents_has_its_options(call: list[str]) -> None:
    command = get_command(program())
    words = list(call)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-") and len(word) > 1:
            assert word in known, f"{' '.join(call)}: no option {word}"


def test_options_named_in_the_text_exist() -> None:
    prose = "".join(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL) for page in PAGES)
    named = set(re.findall(r"`(--[a-z-]+)", prose))
    known: set[str] = {"--help"}
    stack = [get_command(program())]
    while stack:
        command = stack.pop()
        stack += list(getattr(command, "commands", {}).values())
        known |= {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert named <= known


def test_families_table_is_that_of_the_specs() -> None:
    assert current(FAMILIES.read_text()) == table(), "run `python -m tests.families`"


def test_exit_codes_are_documented() -> None:
    text = (ROOT / "docs" / "exit-codes.md").read_text()
    for error in (GateError, UsageError, ContentError, SystemFailure, RebasinError):
        assert f"| {error.exit_code} |" in text


def test_version_is_said_alike_everywhere() -> None:
    version = rebasin_cli.__version__
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    shown = subprocess.run(
        [sys.executable, "-m", "rebasin_cli", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert version in shown


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in ROOT.rglob("*.md"):
        if ".venv" in document.parts or "demo" in document.parts:
            continue
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document}: {target}"


def test_the_page_of_options_is_that_of_the_commands() -> None:
    assert options.PAGE.read_text() == options.page(), "run `python -m tests.options`"


def test_architecture_names_what_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    package = ROOT / "rebasin_cli"
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*)`", text))
    assert len(named) > 20
    for name in named:
        assert any((base / name).exists() for base in (package, ROOT)), name
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \| [^|]* \| `([\w/.]+)` \|", text, re.MULTILINE)
    assert len(rows) > 12
    for constants, place in rows:
        files = [package / place] if place.endswith(".py") else (package / place).rglob("*.py")
        source = "".join(file.read_text() for file in files)
        for constant in re.findall(r"\w+", constants):
            assert re.search(rf"^(?:\w+, )*{constant}\b.* = ", source, re.MULTILINE), f"{constant} in {place}"


def test_the_walk_of_align_names_at_most_ten_files() -> None:
    walk = (ROOT / "ARCHITECTURE.md").read_text().partition("## The walk of")[2].partition("\n## ")[0]
    files = set(re.findall(r"`([\w/]+\.py)`", walk)) - {"matching/reference.py"}
    assert 6 < len(files) <= 10
