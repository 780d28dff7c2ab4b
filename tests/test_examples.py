"""Every command of README and docs is run; where a page shows what it prints, it prints that."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.examples import PAGES, README, Workbench, examples, forced, steady

INSTALLS = ("make ", "pip ", "git ", "python ")
"""What README says of getting the program, which `make test` has done by the time that this is run."""

_NEEDS = re.compile(r"\bllm-[ab]\b")
"""Folders that are not laid out here: tests/cli/test_transformers.py has the like."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work_in_their_order(page: Path, tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    bench.fill()
    for example in examples(page.read_text()):
        if example.line.startswith(INSTALLS) or _NEEDS.search(example.line):
            continue
        line = example.line if example.shown is not None else forced(example.line)
        code, shown = bench.run(line)
        assert code == 0, f"{line}\n{shown}"
        if example.shown:
            assert steady(shown) == steady(example.shown), line


WANTED = re.findall(r"^\| .* \| `(rebasin .*)` \|$", README.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """The folder after the commands of README's start; a test works in a copy of it."""
    bench = Workbench(tmp_path_factory.mktemp("wanted"))
    bench.fill()
    for example in examples(README.read_text()):
        if example.shown is not None:
            bench.run(example.line)
    return bench


@pytest.mark.parametrize("wanted", WANTED)
def test_what_one_wants_works(started: Workbench, tmp_path: Path, wanted: str) -> None:
    # A copy for each: a command that replaces b.rebasin.json would decide what `rerun` finds.
    shutil.copytree(started.folder, tmp_path / "wanted")
    bench = Workbench(tmp_path / "wanted")
    code, shown = bench.run(forced(wanted.replace("\\|", "|")))
    assert code == 0, shown


def test_pages_show_something() -> None:
    shown = [example for page in PAGES for example in examples(page.read_text()) if example.shown]
    assert len(shown) >= 5
