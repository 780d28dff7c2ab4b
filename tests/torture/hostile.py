"""Hostile files: each is given to the commands that read its kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

from tests.torture.attempt import Surroundings, attempt
from tests.torture.cases import Case, arrays, data, documents, folders, nodes, pickles, safetensors, specs
from tests.torture.cases import models as models_of_folders
from tests.torture.judging import Row, Snapshot, is_whole
from tests.torture.stock import fresh

T = TypeVar("T")
_PAIR = "a.safetensors b.safetensors"
# Of each kind the commands that read it; {x}: the file, `<`: stdin, `@`: stdout and stderr are a terminal's,
# `+`: what is finished when one of several fails stays.
COMMANDS = {
    "checkpoint": (
        "inspect {x}", "@ inspect {x}", "align a.safetensors {x} -o o.safetensors",
        "apply p.safetensors {x} -o o.safetensors",
        "merge a.safetensors {x} -o o.safetensors", "arch check mlp {x}", "@ arch show mlp {x}",
        "align - a.safetensors -o o.safetensors < {x}",
        "+ align a.safetensors b.safetensors {x} -o o", "+ align a.safetensors {x} b.safetensors -o o --together",
        "plane a.safetensors {x} --permutation p.safetensors --data data.npz --steps 2",
    ),
    "permutation": (
        "apply {x} b.safetensors -o o.safetensors", "@ apply {x} b.safetensors -o o.safetensors", "inspect {x}",
        f"interpolate {_PAIR} --permutation {{x}} --at 0.5 -o o.safetensors",
    ),
    "data": (
        f"interpolate {_PAIR} --steps 2 --permutation p.safetensors --data {{x}}",
        f"align {_PAIR} -o o.safetensors --method activations --data {{x}}",
        f"@ interpolate {_PAIR} --steps 2 --permutation p.safetensors --data {{x}}",
    ),
    "images": (f"interpolate {_PAIR} --steps 2 --permutation p.safetensors --data {{x}}",),
    "spec": (
        "arch check {x} a.safetensors", "arch show {x}", "@ arch show {x} a.safetensors",
        f"align {_PAIR} --arch {{x}} -o o.safetensors",
        "arch prove {x}",
    ),
    "folder": (
        "inspect {x}", "@ inspect {x}", "arch check {spec} {x}", "align a.safetensors {x} -o o",
        "interpolate a.safetensors {x} --data data.npz --steps 2 --permutation p.safetensors",
    ),
    "model": (
        "interpolate {x} bert --data text.txt --no-align --steps 2 --sequence-length 8",
        "align bert {x} -o o", "inspect {x}",
    ),
    "config": ("arch prove mlp --config {x}",),
    "document": (
        "report {x}", "@ report {x}", "report {x} --html -", "report {x} --markdown -", "report {x} --text -",
        "interpolate --steps 3 < {x}", "rerun {x} --into o",
        f"interpolate {_PAIR} --steps 3 --permutation p.safetensors --data data.npz --resume {{x}}",
    ),
}  # fmt: skip
_MODULES = (safetensors, pickles, arrays, data, specs, folders, documents, nodes, models_of_folders)


@dataclass(frozen=True, slots=True)
class Command:
    """A command line in a folder, and what stdin and stdout are."""

    arguments: tuple[str, ...]
    surroundings: Surroundings
    text: str
    keeps: bool = False

    @classmethod
    def parse(cls, text: str, file: str) -> Command:
        """From a line of `COMMANDS`."""
        shown = text.format(x=file, spec="size.yaml")
        words = shown.split()
        terminal, keeps = words[0] == "@", words[0] == "+"
        stdin = words[words.index("<") + 1] if "<" in words else ""
        arguments = tuple(words[terminal or keeps : words.index("<") if stdin else None])
        return cls(arguments, Surroundings(**({"stdin": stdin} if stdin else {}), terminal=terminal), shown, keeps)


def every_case() -> list[Case]:
    """All hostile files, always in one order."""
    return list(chain.from_iterable(module.cases() for module in _MODULES))


@dataclass(frozen=True, slots=True)
class Plan:
    """One attack with a file: what reproduces it, the command, and what writes the file into the working folder."""

    name: str
    command: Command
    make: Callable[[Path], object]


def run(stock: Path, only: str, most: int | None, *, models: bool = True) -> Iterator[Row]:
    """Attack with every file whose name begins with `only`, one row for each kind.

    Args:
        most: so many attempts in all, spread over files and commands evenly.
        models: also those that transformers has to be loaded for.
    """
    cases = [case for case in every_case() if case.name.startswith(only) and (models or case.kind != "model")]
    if any(case.kind == "model" for case in cases):
        models_of_folders.prepare(stock)
    rows: dict[str, Row] = {}
    for case, line in spread([(each, line) for each in cases for line in _lines(each)], most):
        row = rows.setdefault(case.name.partition("/")[0], Row(f"hostile: {case.name.partition('/')[0]}"))
        command = Command.parse(line, case.file)
        attack(Plan(f"hostile {case.name}", command, partial(_make, case)), stock, row)
    yield from rows.values()


def _lines(case: Case) -> tuple[str, ...]:
    """The commands that read a file; as stdin a shell opens it, which is no attack if it is no file."""
    lines = COMMANDS[case.kind]
    return tuple(line for line in lines if "<" not in line) if case.name.startswith("node/") else lines


def _make(case: Case, work: Path) -> None:
    case.make(work / case.file)


def spread(plan: Sequence[T], most: int | None) -> Iterator[T]:
    """At most `most` of a list, evenly; how far it is is told on stderr."""
    count = len(plan) if most is None else min(most, len(plan))
    for at in range(count):
        if at % 100 == 0:
            print(f"{at} of {count}", end="\r", file=sys.stderr, flush=True)
        yield plan[at * len(plan) // count]


def attack(plan: Plan, stock: Path, row: Row) -> None:
    """Make the file in a fresh folder, run the command, and count what came of it."""
    with fresh(stock) as top:
        work = top / "work"
        plan.make(work)
        before = Snapshot.of(work)
        done = attempt(plan.command.arguments, top, plan.command.surroundings)
        row.add(plan.name, plan.command.text, done)
        before.judge(row, plan.name, plan.command.text, work, done.ended.code, whole=plan.command.keeps)
        for path in work.rglob("o/*.safetensors") if plan.command.keeps else ():
            if not is_whole(path):
                row.count("torn", plan.name, plan.command.text, f"{path.name} is torn")
