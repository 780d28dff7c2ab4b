"""What one can take in at once: how many parameters a function has, and how many lines a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.small import ROOT

PACKAGE = ROOT / "rebasin_cli"


def sources() -> Iterator[tuple[Path, str]]:
    """Every file of the package, and its text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE), path.read_text()


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> int:
    """How many it takes, `self` among them, and each star as one."""
    given = function.args
    stars = [star for star in (given.vararg, given.kwarg) if star]
    return len([*given.posonlyargs, *given.args, *given.kwonlyargs, *stars])


def test_no_function_has_too_many_parameters() -> None:
    """Eight; in the command line's commands a parameter is an option or a group of them, and fifteen are enough."""
    long = [
        f"{path}:{node.lineno} {getattr(node, 'name', 'lambda')} has {parameters(node)}"
        for path, text in sources()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if parameters(node) > (15 if path.parts[0] == "cli" else 8)
    ]
    assert not long, "\n".join(long)


def test_no_file_is_too_long() -> None:
    """Past 350 lines there is a second subject in it."""
    long = [f"{path} has {len(text.splitlines())}" for path, text in sources() if len(text.splitlines()) > 350]
    assert not long, "\n".join(long)
