"""Change the source in small ways and see whether a test notices: `python -m tests.mutants [OPTIONS]`.

Each change is made in a copy of the project: a comparison turned, `+` for `-`, a number altered, a condition negated.
The tests that mirror the changed room run against it; a change that all of them pass is a survivor and is printed.
Some changes leave the meaning as it is, such as another chunk size, so that not every survivor is a gap.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("matching", "spec")
TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
SWAPPED: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add}


def changes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Make each change in turn in `tree`, and undo it when asked for the next: its line, and what it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in TURNED:
            old = node.ops[0]
            node.ops[0] = TURNED[type(old)]()
            yield node.lineno, f"{type(old).__name__} → {type(node.ops[0]).__name__}"
            node.ops[0] = old
        elif isinstance(node, ast.BinOp) and type(node.op) in SWAPPED and not isinstance(node.left, ast.Constant):
            before = node.op
            node.op = SWAPPED[type(before)]()
            yield node.lineno, f"{type(before).__name__} → {type(node.op).__name__}"
            node.op = before
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            value = node.value
            node.value = value * 2 + 1
            yield node.lineno, f"{value} → {node.value}"
            node.value = value
        elif isinstance(node, ast.If):
            test = node.test
            node.test = ast.UnaryOp(ast.Not(), test)
            yield node.lineno, f"not: {ast.unparse(test)[:60]}"
            node.test = test


def mutants(path: Path) -> list[tuple[str, int, str]]:
    """Every changed source of a file, with the line and what was changed."""
    tree = ast.parse(path.read_text())
    return [(ast.unparse(tree), line, what) for line, what in changes(tree)]


def survives(copy: Path, source: Path, text: str, room: str) -> bool:
    """Whether the tests of a room pass with another text in one file; those that mirror file and folder go first."""
    place = copy / source
    original = place.read_text()
    place.write_text(text)
    folder = Path("tests", *source.parent.parts[1:])
    targets = [folder / f"test_{source.stem}.py", folder, Path("tests", room)]
    targets = [target for target in dict.fromkeys(targets) if (copy / target).exists()]
    try:
        return all(
            passes(copy, target, *(f"--ignore={seen}" for seen in targets[:at])) for at, target in enumerate(targets)
        )
    finally:
        place.write_text(original)


def passes(copy: Path, *targets: object) -> bool:
    """Whether these tests pass, within half an hour."""
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *map(str, targets)]
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=1800, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main() -> int:
    """Print the survivors and their share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=60, help="changes to try, drawn from all files alike")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no other change is tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="files whose path has this in it")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    files = [(room, path) for room in ROOMS for path in sorted((ROOT / "rebasin_cli" / room).rglob("*.py"))]
    files = [(room, path.relative_to(ROOT)) for room, path in files if options.only in str(path)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache"))
        alive, tried, began = 0, 0, time.monotonic()
        pools = {path: draw.sample(found, len(found)) for _, path in files if (found := mutants(ROOT / path))}
        turns = itertools.cycle(draw.sample(files, len(files)))
        while tried < options.most and any(pools.values()) and time.monotonic() < began + 60 * options.minutes:
            room, path = next(turns)
            if pools.get(path):
                text, line, what = pools[path].pop()
                tried += 1
                if survives(copy, path, text, room):
                    alive += 1
                    print(f"survived: {path}:{line}  {what}", flush=True)
    print(f"{tried} changes, {tried - alive} noticed, {alive} survived; {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
