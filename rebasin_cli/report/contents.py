"""What a report says, before it has a form: a headline, facts and grids of text.

The terminal, Markdown and HTML show these same values, so that no figure is formatted in three places.
"""

from __future__ import annotations

from collections.abc import Sequence

from rebasin_cli.errors import human_bytes
from rebasin_cli.report.dims import dims_grid
from rebasin_cli.report.document import (
    ArchitectureRecord,
    CheckedRecord,
    CheckRecord,
    ListedArchitecture,
    MatchRecord,
    RunDocument,
)
from rebasin_cli.report.figures import (
    count_text,
    loss_text,
    measure_text,
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
    worth_grid,
)
from rebasin_cli.report.measurements import BarrierRecord, PlaneRecord
from rebasin_cli.report.members import members_grid, members_headline
from rebasin_cli.report.names import input_names
from rebasin_cli.report.reliability import reliability_grid
from rebasin_cli.report.tensors import tensors_grid
from rebasin_cli.spec.kinds import KINDS, OTHERS, kind_of


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
        return merge_headline(document.merge, document.verdict)
    if document.members is not None:
        return members_headline(document.members)
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
        rows += symmetry_facts(document.architecture)
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
        rows += data_facts(measured)
    rows += worth_facts(document)
    if document.plan:
        rows += plan_facts(document)
    rows += [(f"{name} →", path) for name, path in document.outputs.items()]
    return rows


def data_facts(measured: BarrierRecord | PlaneRecord) -> list[tuple[str, str]]:
    """On what was measured, and whether that was cut short."""
    rows = [("data", data_text(measured))]
    if measured.missing:
        rows.append(("cut short", f"{count_text(measured.missing, 'point')} not measured; --resume goes on"))
    return rows


def worth_facts(document: RunDocument) -> list[tuple[str, str]]:
    """What the written point of a path is worth; of a merge the first line says it."""
    if document.verdict is None or document.merge is not None:
        return []
    return [("merge", document.verdict.text)]


def symmetry_facts(architecture: ArchitectureRecord) -> list[tuple[str, str]]:
    """How many symmetries there are, if that was asked for."""
    permutations, signs = architecture.log10_symmetries, architecture.log10_signs
    if permutations is None:
        return []
    more = f", 10^{permutations + signs:.1f} with signs" if signs else ""
    return [("symmetries", f"10^{permutations:.1f} permutations{more}")]


def plan_facts(document: RunDocument) -> list[tuple[str, str]]:
    """The lines of a dry run."""
    plan = document.plan
    if plan is None:
        return []
    rows = [
        ("to read", human_bytes(plan.reads)),
        ("to write", human_bytes(plan.writes)),
        ("memory, about", human_bytes(plan.peak_memory_bytes)),
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


def point_worth(document: RunDocument) -> list[Grid]:
    """What the point of a path that was written is worth, beside its ends and their ensemble."""
    if not (document.verdict and document.verdict.scores and document.barrier):
        return []
    return [worth_grid(document.verdict.scores, document.barrier.loss_unit)]


def grids(document: RunDocument, *, every_dim: bool = False) -> list[Grid]:
    """Every table of the document."""
    found = []
    if document.architectures is not None:
        found += architectures_grids(document.architectures)
    if document.tensors is not None:
        found.append(tensors_grid(document.tensors, every_tensor=True))
    if document.architecture and document.architecture.dims:
        found.append(dims_grid(document.architecture, every_dim=every_dim))
    if document.architecture and document.architecture.stays and document.tensors is not None:
        found.append(stays_grid(document.architecture))
    if document.barrier:
        found += [*curve_grids(document.barrier), barrier_grid(document.barrier)]
    if calibration := reliability_grid(document):
        found.append(calibration)
    if document.plane is not None:
        found.append(plane_grid(document.plane))
    found += point_worth(document)
    if document.merge is not None:
        found += merge_grids(document.merge, input_names(document.inputs))
    if document.members is not None:
        found.append(members_grid(document.members, folded=False))
    if document.checks is not None:
        found.append(checks_grid(document.checks))
    return found


def stays_grid(architecture: ArchitectureRecord) -> Grid:
    """What never moves in this family, and why."""
    return Grid("Never moves", ("what", "why"), tuple(architecture.stays.items()), words=(0, 1))


def checks_grid(checks: Sequence[CheckRecord]) -> Grid:
    """Every check that was asked for."""
    rows = tuple((c.name, "passed" if c.passed else "FAILED", c.detail) for c in checks)
    return Grid("Checks", ("check", "", ""), rows, words=(0, 1, 2))


def architectures_grids(listed: Sequence[ListedArchitecture], *, short: bool = False) -> list[Grid]:
    """The specs, a table for every kind of network; `short`: of what they are only what comes before a bracket."""
    kinds: dict[str, list[ListedArchitecture]] = {kind: [] for kind in (*KINDS, OTHERS)}
    for one in listed:
        kinds[kind_of(one.name) if one.shipped else OTHERS].append(one)
    return [
        Grid(
            kind.capitalize(),
            ("name", "what it is"),
            tuple((a.name, a.title.partition(" (")[0] if short else a.title) for a in found),
            words=(0, 1),
        )
        for kind, found in kinds.items()
        if found
    ]


def _role(role: str) -> str:
    return role.upper() if role in ("a", "b") else role
