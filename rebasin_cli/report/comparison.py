"""Several runs side by side: named by what differs, and a table with a row for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.figures import loss_text, seconds_text
from rebasin_cli.report.measured import Grid
from rebasin_cli.report.names import input_names, model_names
from rebasin_cli.report.verdict import is_one_basin
from rebasin_cli.safe_text import one_line


@dataclass(frozen=True, slots=True)
class Run:
    """A run document, and the name under which it is shown; empty for the only one."""

    name: str
    document: RunDocument


def runs_of(documents: Sequence[RunDocument], sources: Sequence[str]) -> list[Run]:
    """The runs, named by what differs: files, method, seed, data; or by their documents' files, where nothing does."""
    if len(documents) == 1:
        return [Run("", documents[0])]
    traits = [{what: find(document) for what, find in _TRAITS.items()} for document in documents]
    differing = [what for what in _TRAITS if len({each[what] for each in traits}) > 1]
    names = [", ".join(filter(None, (each[what] for what in differing))) for each in traits]
    if len(set(names)) < len(names) or not all(names):
        unique = len(set(sources)) == len(sources)
        names = [source if unique else f"run {k}" for k, source in enumerate(sources, 1)]
    return [Run(name, document) for name, document in zip(names, documents, strict=True)]


def comparison_grid(runs: Sequence[Run]) -> Grid:
    """A row for each run."""
    columns = ("run", "files", "method", "seed", "cosine", "naive barrier", "barrier", "one basin", "matching")
    rows = tuple(
        (
            run.name, _files(run.document), _method(run.document) or "–",
            _seed(run.document).removeprefix("seed ") or "–",
            _cosine(run.document), *_barriers(run.document), _seconds(run.document),
        )
        for run in runs
    )  # fmt: skip
    return Grid("Comparison", columns, rows, words=(0, 1, 2))


def comparison_text(runs: Sequence[Run]) -> str:
    """The table in columns, for a terminal or a pipe; what is the same in all runs stands above it."""
    grid = comparison_grid(runs)
    shared = [k for k in range(1, len(grid.columns)) if len({row[k] for row in grid.rows}) == 1]
    above = [f"{grid.columns[k]}: {one_line(grid.rows[0][k])}\n" for k in shared if grid.rows[0][k] != "–"]
    own = [k for k in range(len(grid.columns)) if k not in shared]
    table = [[one_line(row[k]) for k in own] for row in (grid.columns, *grid.rows)]
    sides = ["<" if k in grid.words else ">" for k in own]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def line(row: list[str]) -> str:
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
        return "  ".join(cells).rstrip() + "\n"

    return "".join([*above, *map(line, table)])


def _files(document: RunDocument) -> str:
    return ", ".join(model_names(document).values())


def _method(document: RunDocument) -> str:
    if document.merge:
        return f"{document.merge.algorithm}, {document.merge.method}"
    return document.match.method if document.match else ""


def _seed(document: RunDocument) -> str:
    record = document.merge or document.match
    return f"seed {record.seed}" if record else ""


def _data(document: RunDocument) -> str:
    return input_names(document.inputs).get("data", "")


def _repairs(document: RunDocument) -> str:
    return " and ".join(document.barrier.repaired) if document.barrier else ""


_TRAITS: Mapping[str, Callable[[RunDocument], str]] = {
    "files": _files, "command": lambda document: document.command, "method": _method, "seed": _seed, "data": _data,
    "repairs": _repairs,
}  # fmt: skip


def _cosine(document: RunDocument) -> str:
    distance = document.distance
    return f"{distance.cosine_before:.3f} → {distance.cosine_after:.3f}" if distance else "–"


def _barriers(document: RunDocument) -> tuple[str, str, str]:
    """The naive barrier, that of the best curve, and whether it is one basin."""
    barrier = document.barrier
    if barrier is None or barrier.best is None:
        return "–", "–", "–"
    naive = loss_text(barrier.naive.barrier) if barrier.naive else "–"
    word = {True: "yes", False: "no", None: "–"}[is_one_basin(barrier)]
    return naive, loss_text(barrier.best[1].barrier), word


def _seconds(document: RunDocument) -> str:
    if document.merge:
        return seconds_text(document.merge.seconds)
    return seconds_text(sum(document.match.seconds.values())) if document.match else "–"
