"""What a report says, before it has a form: a headline, facts and grids of text.

The terminal, Markdown and HTML show these same values, so that no figure is formatted in three places.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rebasin_cli.report.document import (
    ArchitectureRecord,
    BarrierRecord,
    CheckedRecord,
    DimRecord,
    MatchRecord,
    PlaneRecord,
    RunDocument,
)
from rebasin_cli.report.figures import (
    bytes_text,
    count_text,
    loss_text,
    measure_text,
    percent_text,
    seconds_text,
)
from rebasin_cli.report.measured import (
    Grid,
    barrier_grid,
    curve_grids,
    merge_grids,
    merge_headline,
    plane_grid,
    plane_headline,
)

MANY_DIMS = 16
"""From this many dims on they are shown by family (`h.0 … h.31`): a screen holds about as many lines."""

_PLACES = 4  # tensors named for one dim


def headline(document: RunDocument) -> str:
    """One sentence: the result."""
    if document.plan is not None:
        return f"Plan of `rebasin {document.command}`; nothing is written"
    barrier = document.barrier
    if barrier is not None:
        return ", ".join(f"{name} barrier {loss_text(curve.barrier)}" for name, curve in barrier.curves.items())
    if document.plane is not None:
        return plane_headline(document.plane)
    if document.merge is not None:
        return merge_headline(document.merge)
    distance = document.distance
    if distance is not None:
        return f"B aligned onto A: distance {measure_text(distance.before)} → {measure_text(distance.after)}"
    architecture = document.architecture
    if document.architectures is not None:
        return count_text(len(document.architectures), "shipped architecture")
    if document.checks is not None:
        passed = sum(check.passed for check in document.checks)
        return f"{passed} of {count_text(len(document.checks), 'check')} passed"
    if document.tensors is not None and document.inputs:
        found = architecture.name if architecture else "no known architecture"
        return f"{count_text(len(document.tensors), 'tensor')}, {found}"
    if document.tensors is not None and architecture:
        return f"{architecture.name}: {architecture.title}"
    return f"rebasin {document.command}"


def facts(document: RunDocument) -> list[tuple[str, str]]:
    """Name and value of everything that is one line."""
    rows = [(_role(role), entry.path) for role, entry in document.inputs.items()]
    if document.architecture:
        rows.append(("architecture", architecture_text(document.architecture)))
        if document.architecture.log10_symmetries is not None:
            rows.append(("symmetries", f"10^{document.architecture.log10_symmetries:.1f} permutations"))
        if document.architecture.checked:
            rows.append(("function", checked_text(document.architecture.checked)))
    distance = document.distance
    if distance:
        rows.append(("‖A − B‖", f"{measure_text(distance.before)}, cosine {distance.cosine_before:.4f}"))
        rows.append(("‖A − π(B)‖", f"{measure_text(distance.after)}, cosine {distance.cosine_after:.4f}"))
    match = document.match
    if match and match.objective:
        rows.append(
            (
                "⟨A, π(B)⟩",
                f"{measure_text(match.objective[0])} → {measure_text(match.objective[-1])} ({match.stop}), "
                f"{count_text(match.solves, 'assignment')}, {seconds_text(sum(match.seconds.values()))}"
                + (" in all starts" if match.trials else ""),
            )
        )
    if match and match.trials:
        rows.append(("starts", trials_text(match)))
    if measured := document.barrier or document.plane:
        rows.append(("data", data_text(measured)))
        if measured.missing:
            rows.append(("cut short", f"{count_text(measured.missing, 'point')} not measured; --resume goes on"))
    if document.plan:
        rows += plan_facts(document)
    rows += [(f"{name} →", path) for name, path in document.outputs.items()]
    return rows


def plan_facts(document: RunDocument) -> list[tuple[str, str]]:
    """The lines of a dry run."""
    plan = document.plan
    if plan is None:
        return []
    rows = [
        ("to read", bytes_text(plan.reads)),
        ("to write", bytes_text(plan.writes)),
        ("memory, about", bytes_text(plan.peak_memory_bytes)),
        ("time, about", seconds_text(plan.seconds)),
    ]
    return rows + [(f"{name} would be", path) for name, path in plan.targets.items()]


def architecture_text(architecture: ArchitectureRecord) -> str:
    """`mlp (3 dims, 8 tensors), a spec of your own`."""
    tensors = sum(architecture.sections.values())
    parts = [count_text(len(architecture.dims), "dim")]
    if architecture.fixed:
        parts.append(f"{len(architecture.fixed)} of them fixed")
    if tensors:
        parts.append(count_text(tensors, "tensor"))
    for name in ("buffers", "ignored"):
        if architecture.sections.get(name):
            parts.append(f"{architecture.sections[name]} {name}")
    if architecture.prefix:
        parts.append(f"prefix `{architecture.prefix}`")
    proof = f", proved {architecture.proof}" if architecture.proof else "" if architecture.proved else ", not proved"
    own = f", a spec of your own ({architecture.file}){proof}" if architecture.file else ""
    return f"{architecture.name} ({', '.join(parts)}){own}"


def checked_text(checked: CheckedRecord) -> str:
    """`kept: outputs of mlp unchanged to 2e-16 (4 examples, 9 permutations)`, or that it is assumed."""
    if checked.error is None:
        return f"assumed to be kept, as names and shapes fit; {checked.why}"
    counts = f"{count_text(checked.examples, 'example')}, {count_text(checked.permutations, 'permutation')}"
    why = f"; {checked.why}" if checked.why else ""
    return f"kept: outputs of {checked.network} unchanged to {checked.error:.0e} ({counts}){why}"


def trials_text(match: MatchRecord) -> str:
    """`5, reaching 784.1 to 791 (kept: identity, random order, seed 3)`."""
    reached = [trial.objective for trial in match.trials]
    kept = "".join(f" (kept: {trial.name})" for trial in match.trials if trial.kept)
    return f"{len(reached)}, reaching {measure_text(min(reached))} to {measure_text(max(reached))}{kept}"


def data_text(barrier: BarrierRecord | PlaneRecord) -> str:
    """`digits.npz, test split, 360 examples`."""
    split = f", {barrier.split} split" if barrier.split else ""
    examples = f", {count_text(barrier.examples, 'example')}" if barrier.examples else ""
    return f"{barrier.data}{split}{examples}"


def grids(document: RunDocument, *, every_dim: bool = False) -> list[Grid]:
    """Every table of the document."""
    found = []
    if document.architectures is not None:
        found.append(_architectures_grid(document))
    if document.tensors is not None:
        found.append(_tensors_grid(document))
    if document.architecture and document.architecture.dims:
        found.append(dims_grid(document.architecture, every_dim=every_dim))
    if document.architecture and document.architecture.stays and document.tensors is not None:
        stays = tuple(document.architecture.stays.items())
        found.append(Grid("Never moves", ("what", "why"), stays, words=(0, 1)))
    if document.barrier:
        found += [*curve_grids(document.barrier), barrier_grid(document.barrier)]
    if document.plane is not None:
        found.append(plane_grid(document.plane))
    if document.merge is not None:
        found += merge_grids(document.merge)
    if document.checks is not None:
        rows = tuple((c.name, "passed" if c.passed else "FAILED", c.detail) for c in document.checks)
        found.append(Grid("Checks", ("check", "", ""), rows, words=(0, 1, 2)))
    return found


def dims_grid(architecture: ArchitectureRecord, *, every_dim: bool) -> Grid:
    """Dims with size, fraction moved, gain; grouped by family when there are many."""
    dims = architecture.dims
    matched = any(dim.moved is not None for dim in dims.values())
    families = _families(dims)
    together = len(dims) > MANY_DIMS and not every_dim
    groups = families if together else {name: [name] for name in dims}
    rows = tuple(_dims_row(name, [dims[d] for d in members], matched) for name, members in groups.items())
    columns = ("dim", "count", "units") if together else ("dim", "units")
    if not together:
        rows = tuple((row[0], *row[2:]) for row in rows)
    if matched:
        columns = (*columns, "moved", "gain", "distance left")
    return Grid("Dims", (*columns, "note"), rows, words=(0, len(columns)))


def _families(dims: Mapping[str, DimRecord]) -> dict[str, list[str]]:
    families: dict[str, list[str]] = {}
    for name in dims:
        stem, _, rest = name.partition(".")
        families.setdefault(f"{stem}.*" if rest else stem, []).append(name)
    return families


def _dims_row(name: str, members: list[DimRecord], matched: bool) -> tuple[str, ...]:
    sizes = sorted({dim.size for dim in members})
    size = f"{sizes[0] or '–'}" if len(sizes) == 1 else f"{sizes[0]}–{sizes[-1]}"
    owners = sorted({dim.owner.split(".")[0] if len(members) > 1 else dim.owner for dim in members if dim.owner})
    reasons = sorted({dim.fixed for dim in members if dim.fixed})
    notes = [f"for each {owner}" for owner in owners]
    notes += [f"fixed: {reason}" if reason != "fixed" else reason for reason in reasons]
    places = [place for dim in members for place in dim.tensors]
    if places:
        notes.append(
            "in " + ", ".join(places[:_PLACES]) + (f" and {len(places) - _PLACES} more" * (len(places) > _PLACES))
        )
    figures: tuple[str, ...] = ()
    if matched:
        moved = [(d.moved * d.size, d.size) for d in members if d.moved is not None]
        gains = [d.gain for d in members if d.gain is not None]
        worst = max((d.relative for d in members if d.relative is not None), default=None)
        figures = (
            percent_text(sum(m for m, _ in moved) / max(1, sum(size for _, size in moved)) if moved else None),
            f"{sum(gains):+.4g}" if gains else "–",
            percent_text(worst),
        )
    return (name, str(len(members)), size, *figures, "; ".join(notes))


def _tensors_grid(document: RunDocument) -> Grid:
    tensors = document.tensors or {}
    if not any(t.dtype for t in tensors.values()):  # templates of a spec
        lines = tuple((key, _reading(t.section, t.pattern), str(t.line)) for key, t in tensors.items())
        return Grid("Tensors", ("template", "axes", "line"), lines, words=(0, 1))
    rows = tuple(
        (key, t.dtype, "×".join(map(str, t.shape)) or "scalar", _reading(t.section, t.pattern))
        for key, t in tensors.items()
    )
    return Grid("Tensors", ("tensor", "dtype", "shape", "axes"), rows, words=(0, 1, 3))


def _reading(section: str | None, pattern: str) -> str:
    if section is None:
        return "–"
    if section == "ignored":
        return "left alone"
    return pattern + (" (buffer)" if section == "buffers" else "")


def _architectures_grid(document: RunDocument) -> Grid:
    rows = tuple((a.name, a.title, "" if a.shipped else a.file) for a in document.architectures or ())
    return Grid("Architectures", ("name", "what it is", ""), rows, words=(0, 1, 2))


def _role(role: str) -> str:
    return role.upper() if role in ("a", "b") else role


def short_path(path: str) -> str:
    """The path as seen from the current folder, if it lies in it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
