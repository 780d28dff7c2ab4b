"""Run documents as Markdown: a model card for a hub, and what a pull request shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf, isfinite
from typing import Any

import yaml

from rebasin_cli.report.comparison import Run, comparison_grid
from rebasin_cli.report.contents import facts, grids
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.measured import Grid
from rebasin_cli.report.names import model_names, role_name
from rebasin_cli.report.reproduce import reproduction
from rebasin_cli.report.thinning import shortened, thinned
from rebasin_cli.report.tiles import sentence, tiles
from rebasin_cli.safe_text import LONGEST_NAME, one_line, printable

# Signs of markup, the `&` of an entity, and what makes a link of `https://…` and `www.…`.
_ACTING = re.compile(r"[\\`*_|<\[]|&(?=#?\w+;)|:(?=//)|(?<=www)\.", re.IGNORECASE)

_MAKES_MODELS = {"align", "interpolate", "merge", "apply", "repair"}
_STORIES = {
    "align": "The units of B were brought into the order of A's, so that both can be merged.",
    "interpolate": "The line between A and B was walked, with B as it is and in A's order of units.",
    "merge": "The models were brought into one order of units and averaged.",
    "apply": "A permutation that was found before was applied.",
    "repair": "The statistics of a merged network were repaired.",
}


def markdown_of(runs: Sequence[Run]) -> str:
    """One run as a model card, or a comparison of several."""
    runs = [replace(run, document=thinned(run.document)) for run in runs]
    if len(runs) == 1:
        document = runs[0].document
        return "\n\n".join([*_front_matter(document), *_card(document)]) + "\n"
    blocks = [f"# {len(runs)} runs compared", _table(comparison_grid(runs))]
    for run in runs:
        document = run.document
        blocks += [f"## {_escaped(run.name)}", _escaped(sentence(document)), *_figures(document), _facts(document)]
    return "\n\n".join(blocks) + "\n"


def _front_matter(document: RunDocument) -> Iterator[str]:
    """What a hub reads, for a document of networks: where they come from, tags, and the figures."""
    if document.command not in _MAKES_MODELS or document.plan is not None:
        return
    names = [one_line(name, LONGEST_NAME) for name in dict.fromkeys(model_names(document).values())]
    merged = document.command == "merge" or document.at is not None
    folders = any(not re.search(r"\.\w+$", name) for name in names)
    fields: dict[str, Any] = {
        "base_model": names,
        "library_name": "transformers" if folders else "safetensors",
        "tags": ["rebasin", "git-re-basin", *(["merge"] if merged else [])],
        "rebasin": dict(_record(document)),
    }
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=inf)
    yield f"---\n{text}---"


def _record(document: RunDocument) -> Iterator[tuple[str, Any]]:
    """The run in a few fields."""
    match, merge, distance, barrier = document.match, document.merge, document.distance, document.barrier
    yield "command", one_line(document.command, LONGEST_NAME)
    if document.architecture:
        yield "architecture", one_line(document.architecture.name, LONGEST_NAME)
    if merge:
        yield "algorithm", one_line(merge.algorithm, LONGEST_NAME)
        yield "weights", [round(weight, 6) for weight in merge.weights]
    if record := merge or match:
        yield "method", one_line(record.method, LONGEST_NAME)
        yield "seed", record.seed
    if document.at is not None:
        yield "lambda", document.at
    if distance:
        yield "cosine", {"before": _figure(distance.cosine_before), "after": _figure(distance.cosine_after)}
    if barrier and barrier.curves:
        curves = barrier.curves.items()
        yield "barrier", {one_line(name, LONGEST_NAME): _figure(curve.barrier) for name, curve in curves}
    if merge and merge.scores:
        yield "loss", {one_line(name, LONGEST_NAME): _figure(score.loss) for name, score in merge.scores.items()}


def _figure(value: float) -> float | None:
    return float(f"{value:.6g}") if isfinite(value) else None


def _card(document: RunDocument) -> Iterator[str]:
    yield f"# {_escaped(sentence(document))}"
    if story := _STORIES.get(document.command):
        yield f"{story} Made with rebasin (Git Re-Basin, arXiv:2209.04836)."
    if document.warnings:
        yield "\n".join(f"- **Note:** {_escaped(warning)}" for warning in document.warnings)
    yield from _figures(document)
    if names := model_names(document):
        yield "## Models"
        rows = tuple((role_name(role), name, document.inputs[role].sha256 or "–") for role, name in names.items())
        yield _table(Grid("", ("", "file", "sha256"), rows, words=(0, 1, 2)))
    if found := reproduction(document):
        yield "## Command"
        yield f"    {' '.join(found.words)}"
    yield "## Details"
    yield _facts(document)
    for grid in grids(document, every_dim=True):
        yield f"## {_escaped(grid.title)}"
        yield _table(grid)
    versions = ", ".join(f"{name} {version}" for name, version in document.versions.items())
    yield f"<sub>`{_code(f'rebasin {document.command}')}` · {_escaped(versions)} · {_escaped(document.device)}</sub>"


def _figures(document: RunDocument) -> Iterator[str]:
    rows = tuple((tile.name, " → ".join(tile.steps), tile.note) for tile in tiles(document))
    if rows:
        yield _table(Grid("", ("", "", ""), rows, words=(0, 1, 2)))


def _facts(document: RunDocument) -> str:
    return _table(Grid("", ("", ""), tuple(facts(document)), words=(0, 1)))


def _table(grid: Grid) -> str:
    grid = shortened(grid)
    lines = [_row(grid.columns), _row([":--" if i in grid.words else "--:" for i in range(len(grid.columns))])]
    lines += [_row(row) for row in grid.rows]
    return "\n".join(lines)


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """No character of a path or a key acts as markup, and no address becomes a link by itself."""
    return " ".join(_ACTING.sub(r"\\\g<0>", printable(text)).split())


def _code(text: str) -> str:
    """Within backticks, where nothing can be escaped."""
    return one_line(text).replace("`", "'")
