"""What a terminal shows of a run: the verdict, a few facts, small tables and what was written.

Every value is formatted where Markdown and HTML take it from; here is chosen what a screen has room for.
"""

from __future__ import annotations

from dataclasses import replace

from rebasin_cli.report.contents import (
    architecture_text,
    architectures_grids,
    checked_text,
    checks_grid,
    data_facts,
    grids,
    headline,
    plan_facts,
    stays_grid,
    symmetry_facts,
    worth_facts,
)
from rebasin_cli.report.dims import dims_grid
from rebasin_cli.report.document import ArchitectureRecord, CheckedRecord, MatchRecord, RunDocument
from rebasin_cli.report.figures import count_text, measure_text, seconds_text
from rebasin_cli.report.measured import Grid, merge_grids, plane_grid, sampled_grids
from rebasin_cli.report.members import members_grid
from rebasin_cli.report.names import input_names
from rebasin_cli.report.reliability import reliability_grid
from rebasin_cli.report.tensors import size_text, tensors_grid
from rebasin_cli.report.verdict import verdict

_USUAL_METHOD, _USUAL_END = "weights", "converged"
_FULL_TITLES = 20  # specs in a list
_ALONE, _BELOW_CURVES = 8, 3  # kinds of dims that a screen has room for


def title(document: RunDocument) -> str:
    """The first line."""
    return (document.plan is None and verdict(document)) or headline(document)


def summary_facts(document: RunDocument) -> list[tuple[str, str]]:
    """Name and value of what is one line, each fact once."""
    names = input_names(document.inputs)
    rows = []
    models = [_labelled(role, name) for role, name in names.items() if role not in ("data", "fit-data")]
    if models:
        rows.append(("inputs" if len(models) > 1 else "input", ", ".join(models)))
    if document.tensors and document.inputs:
        rows.append(("size", size_text(document.tensors)))
    if document.architecture:
        rows.append(("spec", architecture_text(document.architecture)))
        rows += symmetry_facts(document.architecture)
        if document.architecture.checked:
            rows.append(("function", _function_text(document.architecture.checked)))
    distance, match = document.distance, document.match
    if distance and (match is None or document.barrier is None):
        rows.append(("distance", f"{measure_text(distance.before)} → {measure_text(distance.after)}"))
    if match and match.objective:
        rows.append(("match", _match_text(match)))
    if measured := document.barrier or document.plane:
        rows += data_facts(measured)
    elif "data" in names:
        rows.append(("data", names["data"]))
    rows += worth_facts(document)
    if "fit-data" in names:
        rows.append(("fitted on", names["fit-data"]))
    return rows + plan_facts(document)


def summary_grids(document: RunDocument, *, verbose: bool) -> list[Grid]:
    """The tables: a few λ, the families of dims; with `verbose` all of both, and both definitions of the barrier."""
    if verbose:
        return grids(document, every_dim=True)
    found: list[Grid] = []
    if document.architectures is not None:
        found += architectures_grids(document.architectures, short=len(document.architectures) > _FULL_TITLES)
    if document.tensors is not None:
        found.append(tensors_grid(document.tensors, every_tensor=False))
    barrier = document.barrier
    if barrier:
        found += sampled_grids(barrier)
    if calibration := reliability_grid(document):
        found.append(calibration)
    if document.plane is not None:
        found.append(plane_grid(document.plane))
    if document.merge is not None:
        found += merge_grids(document.merge, input_names(document.inputs))
    if document.members is not None:
        found.append(members_grid(document.members, folded=True))
    architecture = document.architecture
    if architecture and architecture.dims and document.members is None:
        dims = dims_grid(architecture, every_dim=False, rows=_BELOW_CURVES if barrier or document.plane else _ALONE)
        found.append(replace(dims, title=_freezing(architecture)) if document.command == "inspect" else dims)
    if architecture and architecture.stays and document.tensors is not None:
        found.append(stays_grid(architecture))
    if document.checks is not None:
        found.append(checks_grid(document.checks))
    return found


def _freezing(architecture: ArchitectureRecord) -> str:
    """How `--freeze` takes the dims below, on an example."""
    name = next((name for name, dim in architecture.dims.items() if "." in name and dim.fixed is None), "")
    stem = name.partition(".")[0]
    return f"Dims (--freeze {name} keeps this one in place, --freeze {stem} all of {stem}.*)" if name else "Dims"


def _labelled(role: str, name: str) -> str:
    return f"{role.upper()} {name}" if role in ("a", "b") else name


def _function_text(checked: CheckedRecord) -> str:
    """`kept: my_module:make unchanged to 2e-16`, or that it is assumed."""
    if checked.error is None:
        return checked_text(checked)
    why = f"; {checked.why}" if checked.why else ""
    return f"kept: {checked.network} unchanged to {checked.error:.0e}{why}"


def _match_text(match: MatchRecord) -> str:
    """`objective 5.9 → 105, 57 assignments, best of 2 starts, 0.2 s`; method and end if they are not the usual ones."""
    parts = [match.method] if match.method != _USUAL_METHOD else []
    ended = f" ({match.stop})" if match.stop != _USUAL_END else ""
    parts.append(f"objective {measure_text(match.objective[0])} → {measure_text(match.objective[-1])}{ended}")
    parts.append(count_text(match.solves, "assignment"))
    if match.trials:
        parts.append(f"best of {count_text(len(match.trials), 'start')}")
    return ", ".join([*parts, seconds_text(sum(match.seconds.values()))])
