"""The parts of a page between a document and its template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rebasin_cli.errors import human_bytes
from rebasin_cli.report.chart import Chart, chart, marker_shape, trace
from rebasin_cli.report.contents import (
    architecture_text,
    checked_text,
    data_text,
    grids,
    plan_facts,
    point_worth,
    trials_text,
)
from rebasin_cli.report.dim_families import DimRow, dim_rows
from rebasin_cli.report.document import MatchRecord, RunDocument
from rebasin_cli.report.figures import count_text, loss_text, measure_text, percent_text, seconds_text
from rebasin_cli.report.measured import Grid, barrier_grid, curve_grids
from rebasin_cli.report.measurements import BarrierRecord, MergeRecord
from rebasin_cli.report.names import input_names, role_name
from rebasin_cli.report.reliability import reliability_grid, reliability_measure
from rebasin_cli.report.reproduce import Reproduction, options_of, reproduction
from rebasin_cli.report.series import Series, measures
from rebasin_cli.report.tiles import Tile, Tone

Facts = tuple[tuple[str, str], ...]
MANY_DIMS = 16
"""With this many dims or more, their families are folded: a screen holds about as many lines."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a page begins with."""

    sentence: str
    tone: Tone
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """A line of the legend."""

    place: int
    shape: Markup
    text: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart, with a logarithmic one to switch to where that shows more; no chart if no value is finite."""

    caption: str
    keys: tuple[Key, ...]
    linear: Chart | None
    log: Chart | None


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure with its share of the largest one, 0 to 1."""

    name: str
    text: str
    share: float
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Merge:
    """Members, naive average and merged with bars of their losses, and the pairs' barriers as a table of heat."""

    columns: tuple[str, ...]
    bars: tuple[Bar, ...]
    unit: str
    names: tuple[str, ...]
    heat: tuple[tuple[str, tuple[Heat | None, ...]], ...]
    what: str
    facts: Facts


@dataclass(frozen=True, slots=True)
class Heat:
    """A cell: its text, and how hot it is, 0 to 4."""

    text: str
    level: int


@dataclass(frozen=True, slots=True)
class Sections:
    """Everything of one run but its verdict and its curves."""

    document: RunDocument
    reproduction: Reproduction | None
    options: tuple[tuple[str, Facts], ...]
    files: Facts
    matching: Facts
    objective: Chart | None
    dims: tuple[DimRow, ...]
    largest_gain: float
    stays: Facts
    architecture: Facts
    merge: Merge | None
    tables: tuple[Grid, ...]
    points: tuple[Grid, ...]
    barriers: Grid | None
    calibration: Grid | None
    run: Facts
    failures: Facts

    @property
    def matched(self) -> bool:
        """Whether the dims have figures of a match."""
        return any(row.moved is not None for row in self.dims)

    @property
    def noted(self) -> bool:
        """Whether there is a note on some dim."""
        return any(row.note for row in self.dims)

    @property
    def folded(self) -> bool:
        """Whether the families of the dims are shown first, because there are many dims."""
        return sum(row.count for row in self.dims) > MANY_DIMS


def curves(runs: Sequence[tuple[str, BarrierRecord]]) -> list[Figure]:
    """A figure for each measure."""
    if not runs:
        return []
    return [
        Figure(
            measure.title, tuple(map(_key, measure.series)), chart(measure),
            chart(measure, log=True) if measure.name == "loss" and measure.takes_log else None,
        )
        for measure in measures(runs)
    ]  # fmt: skip


def reliability(runs: Sequence[tuple[str, RunDocument]]) -> list[Figure]:
    """The reliability diagram of all networks of some runs, where it was measured."""
    measure = reliability_measure(runs)
    if measure is None:
        return []
    drawn = chart(
        measure, axis="confidence: probability of the answer", place=lambda sure: f"confidence {percent_text(sure)}"
    )
    return [Figure(measure.title, tuple(map(_key, measure.series)), drawn, None)]


def _key(one: Series) -> Key:
    return Key(one.place, marker_shape(one.place), one.label)


def section_views(document: RunDocument) -> Sections:
    """The parts of the page of one run."""
    architecture, match, barrier = document.architecture, document.match, document.barrier
    rows = dim_rows(architecture.dims) if architecture else ()
    gains = [abs(each.gain) for row in rows for each in (row, *row.members) if each.gain is not None]
    shown = {"Dims", "Never moves"}
    return Sections(
        document,
        reproduction(document),
        tuple(options_of(document)),
        tuple(_files(document)),
        _matching(match) if match else (),
        _objective(match, document.merge),
        rows,
        max(gains, default=0.0),
        tuple(architecture.stays.items()) if architecture else (),
        _architecture(document),
        _merge(document.merge, document) if document.merge else None,
        tuple(grid for grid in _others(document) if grid.title not in shown),
        tuple(curve_grids(barrier)) if barrier else (),
        barrier_grid(barrier) if barrier and barrier.curves else None,
        reliability_grid(document),
        _run(document),
        tuple((barrier.failures if barrier else document.merge.failures if document.merge else {}).items()),
    )


def _others(document: RunDocument) -> list[Grid]:
    """What the written point of a path is worth; of commands that only look tensors, architectures, checks."""
    return point_worth(document) if document.barrier or document.merge else grids(document, every_dim=True)


def _files(document: RunDocument) -> Facts:
    rows = [
        (role_name(role), f"{entry.path}{f' (sha256 {entry.sha256[:12]}…)' if entry.sha256 else ''}")
        for role, entry in document.inputs.items()
    ]
    rows += [(f"{role} →", name) for role, name in document.outputs.items()]
    if document.plan:
        rows += plan_facts(document)
    return tuple(rows)


def _matching(match: MatchRecord) -> Facts:
    rows = [("method", match.method), ("seed", str(match.seed)), ("ended", match.stop)]
    if match.objective:
        rows.append(("⟨A, π(B)⟩", f"{measure_text(match.objective[0])} → {measure_text(match.objective[-1])}"))
    solvers = ", ".join(f"{count:,} by {name}" for name, count in match.solvers.items())
    rows.append(("assignments", f"{match.solves:,}{f' ({solvers})' if solvers else ''}"))
    if match.gap is not None:
        rows.append(("certified gap", f"{match.gap:.1e} at most, per assignment"))
    if match.trials:
        rows.append(("starts", trials_text(match)))
    if match.losses:
        rows.append(("midpoint loss", " → ".join((loss_text(match.losses[0]), loss_text(match.losses[-1])))))
    if match.seconds:
        phases = ", ".join(f"{name} {seconds_text(seconds)}" for name, seconds in match.seconds.items())
        rows.append(("time", f"{seconds_text(sum(match.seconds.values()))} ({phases})"))
    return tuple(rows)


def _objective(match: MatchRecord | None, merge: MergeRecord | None) -> Chart | None:
    if match:
        return trace("Objective ⟨A, π(B)⟩", match.objective, "sweep")
    return trace("Objective Σ wᵢwⱼ⟨πᵢ(Mᵢ), πⱼ(Mⱼ)⟩", merge.objective, "round") if merge else None


def _architecture(document: RunDocument) -> Facts:
    architecture = document.architecture
    if architecture is None:
        return ()
    rows = [("spec", architecture_text(architecture)), ("what it is", architecture.title)]
    if architecture.sizes:
        rows.append(("sizes", ", ".join(f"{name} {size}" for name, size in architecture.sizes.items())))
    given = architecture.options
    for name, values in (("frozen", given.freeze), ("left alone", given.ignore)):
        if values:
            rows.append((name, ", ".join(values)))
    if architecture.checked:
        rows.append(("function", checked_text(architecture.checked)))
    return tuple(rows)


def _run(document: RunDocument) -> Facts:
    rows = [("command", f"rebasin {document.command}")]
    if document.barrier and document.barrier.data:
        rows.append(("data", data_text(document.barrier)))
        if document.barrier.missing:
            rows.append(("cut short", f"{count_text(document.barrier.missing, 'point')} not measured"))
    if calls := document.invocations:
        rows.append(("started", calls[-1].started))
        rows.append(("time", seconds_text(sum(call.seconds for call in calls))))
        rows.append(("machine", ", ".join(f"{name} {value}" for name, value in calls[-1].machine.items())))
    if document.peak_memory_bytes:
        rows.append(("peak memory", human_bytes(document.peak_memory_bytes)))
    rows.append(("device", document.device))
    if document.versions:
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in document.versions.items())))
    return tuple(rows)


def _merge(merge: MergeRecord, document: RunDocument) -> Merge:
    names = input_names(document.inputs)
    shown = {role: f"{role_name(role)}: {names[role]}" for role in names if role.startswith("model.")}
    others = tuple(dict.fromkeys(name for score in merge.scores.values() for name in score.metrics))
    right = ("accuracy",) if merge.has_accuracy else ()
    largest = max((s.loss for s in merge.scores.values() if s.loss == s.loss and abs(s.loss) < 1e300), default=0.0)
    bars = tuple(
        Bar(
            shown.get(name, name), loss_text(score.loss),
            max(0.0, score.loss / largest) if largest > 0 and score.loss == score.loss else 0.0,
            (*(percent_text(score.accuracy) for _ in right), *(measure_text(score.metrics.get(o)) for o in others)),
        )
        for name, score in merge.scores.items()
    )  # fmt: skip
    facts = [
        ("algorithm", merge.algorithm), ("method", merge.method), ("seed", str(merge.seed)), ("ended", merge.stop),
        ("matches", f"{merge.matches:,}"), ("time", seconds_text(merge.seconds)),
        *((f"weight of {role_name(f'model.{k}')}", f"{weight:.4g}") for k, weight in enumerate(merge.weights, 1)),
        *((f"moved of {role_name(f'model.{k}')}", percent_text(moved)) for k, moved in enumerate(merge.moved, 1)),
    ]  # fmt: skip
    what, roles, heat = _heat(merge)
    columns = ("network", f"loss, {merge.loss_unit}", *right, *others)
    return Merge(columns, bars, merge.loss_unit, tuple(map(role_name, roles)), heat, what, tuple(facts))


def _heat(merge: MergeRecord) -> tuple[str, list[str], tuple[tuple[str, tuple[Heat | None, ...]], ...]]:
    """Upper triangle: as the models are; lower triangle: in one order. Of barriers, or of distances without data."""
    measured = any(pair.aligned is not None for pair in merge.pairs)
    what = "Loss barrier" if measured else "Distance"
    roles = list(dict.fromkeys(role for pair in merge.pairs for role in (pair.first, pair.second)))
    cells: dict[tuple[str, str], float | None] = {}
    for pair in merge.pairs:
        cells[pair.first, pair.second] = pair.naive if measured else pair.before
        cells[pair.second, pair.first] = pair.aligned if measured else pair.after
    finite = [value for value in cells.values() if value is not None and abs(value) < 1e300]
    largest = max(finite, default=0.0)

    def cell(row: str, column: str) -> Heat | None:
        if (row, column) not in cells:
            return None
        value = cells[row, column]
        share = value / largest if value is not None and abs(value) < 1e300 and largest > 0 else 0.0
        return Heat(loss_text(value) if measured else measure_text(value), max(0, min(4, round(4 * share))))

    rows = tuple((role_name(row), tuple(cell(row, column) for column in roles)) for row in roles)
    return what, roles, rows
