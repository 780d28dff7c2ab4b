"""The run document: what went in, what was found and what was written, as one value.

It is what a command prints into a pipe and what the next command works on; its JSON form is described by
`run-document.schema.json` beside this file, and `codec.py` turns one into the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import field

from rebasin_cli.report.measurements import BarrierRecord, Figure, MergeRecord, PlaneRecord, Record, VerdictRecord

SCHEMA_VERSION = 1
Option = bool | int | float | str | tuple[str, ...]  # the value of one


class InputRecord(Record, frozen=True):
    """A file that was read.

    Attributes:
        path: absolute, or in a file seen from the folder of the document.
        sha256: as the scan of the whole file gave it; None if only the header was read.
        key: the network in the file that was named (`path` ends with it, too); "" for the only or obvious one.
        repository: `OWNER/NAME` on the hub that it was fetched from, "" for a file of the user's; commit: which one.
    """

    path: str
    sha256: str | None = None
    key: str = ""
    repository: str = ""
    commit: str = ""

    @property
    def identity(self) -> str:
        """What tells this network from every other one; two in one file share the sha256."""
        return f"{self.sha256}:{self.key}" if self.sha256 and self.key else self.sha256 or ""


class DimRecord(Record, frozen=True):
    """One dim: a set of units that move together.

    Attributes:
        size: number of units (for each unit of `owner`, if it has one).
        moved: fraction of the units whose place changed or whose sign is turned, 0 to 1; None before a match.
        turned: fraction of the units whose sign is turned; None before a match, and where signs may not be turned.
        symmetry: what may be done to its units beside permuting them, of `signs`, `scales` and `rotations`; or empty.
        gain: what this dim adds to ⟨A, π(B)⟩, that of dims within it included; the gains of all dims sum up to what
            π adds, so that what two dims gain only together goes to each in halves.
        relative: ‖A − π(B)‖ / ‖A − B‖ over the tensors in which it stands; above 1 it is worse than before.
        owner: the dim it lies within.
        fixed: why it stays at identity; None if it may move.
        tensors: where it stands: keys, or key templates without a checkpoint (`arch show` only).
    """

    size: int
    moved: float | None = None
    gain: float | None = None
    relative: float | None = None
    owner: str | None = None
    fixed: str | None = None
    tensors: tuple[str, ...] = ()
    turned: float | None = None
    symmetry: str = ""


class SpecOptions(Record, frozen=True):
    """What the user said about the spec, so that a later command binds the same layout.

    Attributes:
        symmetry: what may be done to units beside permuting them: `signs`, `scales`, `rotations`, `all`; or empty.
    """

    set: Mapping[str, int] = {}
    freeze: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    symmetry: str = ""


class CheckedRecord(Record, frozen=True):
    """How it is known that a permuted checkpoint is still the same function: the network was run, or it is assumed.

    Attributes:
        network: what was run; empty: nothing, and the spec fits names and shapes alone.
        examples: how many; permutations: under how many they were compared, those that were found included.
        error: the largest change of an output, relative to the largest output; None if nothing was run.
        why: why nothing was run; of a network that ships, that it was chosen by names and shapes.
    """

    network: str = ""
    examples: int = 0
    permutations: int = 0
    error: float | None = None
    why: str = ""


class ArchitectureRecord(Record, frozen=True):
    """Which permutation spec was bound, and to what.

    Attributes:
        sha256: of the spec's canonical form.
        file: where a spec that does not ship lies; None for a shipped one.
        proved: whether the spec was proved on networks of its family: by the project's tests, if it ships, otherwise
            by `rebasin arch prove`. That *this* network is one of them is another question: see `checked`.
        proof: of a spec that does not ship: on which network, and when; text: its YAML.
        checked: whether this network was run; None where nothing was permuted.
        prefix: the wrapper in front of the keys (`module.`).
        sizes: what shapes alone do not tell, as it was found.
        sections: number of tensors by section: tensors, buffers, ignored.
        stays: what never moves in this family, and why.
        log10_symmetries: decimal logarithm of the number of permutations (`arch show --count` only).
        log10_signs: the same of the ways to turn signs of units; None where no dim has signs.
    """

    name: str
    title: str
    sha256: str
    proved: bool
    file: str | None = None
    prefix: str = ""
    sizes: Mapping[str, int] = {}
    sections: Mapping[str, int] = {}
    options: SpecOptions = SpecOptions()
    dims: Mapping[str, DimRecord] = {}
    fixed: tuple[str, ...] = ()
    stays: Mapping[str, str] = {}
    proof: str = ""
    checked: CheckedRecord | None = None
    text: str = ""
    log10_symmetries: float | None = None
    log10_signs: float | None = None


class TrialRecord(Record, frozen=True):
    """One of several starts.

    Attributes:
        name: where it began and in what order it went.
        objective: what it reached; seconds: wall time.
        kept: whether the permutation is its.
    """

    name: str
    objective: Figure
    seconds: float
    kept: bool = False


class MatchRecord(Record, frozen=True):
    """How the permutation was found.

    Attributes:
        objective: ⟨A, π(B)⟩ of the weights: at the identity, as the search went on if it follows it, and at the end.
        stop: "converged", "max-sweeps", "nothing-to-move", "time" or "interrupted".
        seconds: wall time by phase.
        solves: number of linear assignments; solvers: by solver.
        gap: the largest certified distance of one of them from its optimum, if the solver gives one.
        trials: every start, if there were several; `objective` is of the one that is kept.
        losses: of the midpoint on examples held apart, at the start and after every epoch (`ste`).
    """

    method: str
    seed: int
    objective: tuple[Figure, ...]
    stop: str
    seconds: Mapping[str, float] = {}
    solves: int = 0
    solvers: Mapping[str, int] = {}
    gap: float | None = None
    trials: tuple[TrialRecord, ...] = ()
    losses: tuple[Figure, ...] = ()


class DistanceRecord(Record, frozen=True):
    """Euclidean distance and cosine between A and B (before) and between A and π(B) (after)."""

    before: Figure
    after: Figure
    cosine_before: Figure
    cosine_after: Figure


class MemberRecord(Record, frozen=True):
    """One of many checkpoints that were aligned.

    Attributes:
        input: the checkpoint.
        outputs: paths by role: aligned, permutation; hashes: their sha256, where they are files of one piece.
        distance: from A, before and after; None if it could not be aligned.
        moved: the fraction of its units whose place changed, averaged over dims.
        stop: as in the record of a match.
        warnings: what a reader of these figures must know.
        failure: why it could not be aligned; code: the exit code that this would have alone.
    """

    input: InputRecord
    outputs: Mapping[str, str] = {}
    hashes: Mapping[str, str] = {}
    distance: DistanceRecord | None = None
    moved: float | None = None
    stop: str = ""
    warnings: tuple[str, ...] = ()
    failure: str = ""
    code: int = 0


class MembersRecord(Record, frozen=True):
    """Many checkpoints aligned onto A.

    Attributes:
        members: in the order in which they were named; together: whether all were brought into one order.
        basis: what their outputs depend on beside the members themselves, by name: hashes, and options.
        missing: how many had not been begun when the run was cut short; left: outputs that workers may have written.
    """

    members: tuple[MemberRecord, ...]
    together: bool = False
    basis: Mapping[str, str] = {}
    missing: int = 0
    left: tuple[str, ...] = ()

    @property
    def aligned(self) -> tuple[MemberRecord, ...]:
        """Those that were aligned."""
        return tuple(member for member in self.members if not member.failure)

    @property
    def failed(self) -> tuple[MemberRecord, ...]:
        """Those that could not be."""
        return tuple(member for member in self.members if member.failure)


class TensorRecord(Record, frozen=True):
    """One tensor of a checkpoint: what it is, and how the spec reads it (section None: no spec claims it)."""

    dtype: str
    shape: tuple[int, ...]
    section: str | None = None
    pattern: str = ""
    line: int = 0


class ListedArchitecture(Record, frozen=True):
    """One line of `rebasin arch list`."""

    name: str
    title: str
    sha256: str
    file: str
    shipped: bool


class CheckRecord(Record, frozen=True):
    """The outcome of one check the user asked for (`arch check`, `arch prove`)."""

    name: str
    passed: bool
    detail: str = ""


class DerivationRecord(Record, frozen=True):
    """How a spec was derived from a network.

    Attributes:
        network: as it was named; inputs: what it was run on.
        passes: forward and backward runs; seconds: of all of it, the proof included.
        complete: whether all was decided, and in time.
        held: dims that were found and stay all the same, with the reason.
        unread: tensors that the outputs do not depend on.
        free: sides that stay though exchanging their units changes nothing.
    """

    network: str
    inputs: str
    passes: int
    seconds: float
    complete: bool = True
    held: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    free: tuple[str, ...] = ()


class PlanRecord(Record, frozen=True):
    """What a run would do (`--dry-run`); memory and time are estimates, good to a factor of three."""

    reads: int
    writes: int
    targets: Mapping[str, str]
    peak_memory_bytes: int
    seconds: float


class InvocationRecord(Record, frozen=True):
    """A command, as it was called and where; the environment is not kept.

    Attributes:
        command_line: as it was typed.
        options: every option and argument that counted, by its name in `--help`; defaults are resolved.
        started: in UTC, ISO 8601; seconds: from then until the document was made.
        machine: platform, processor, cores, threads, python.
        folder: in which it ran: absolute, or seen from the document's own folder if that is a file.
    """

    command_line: tuple[str, ...] = ()
    options: Mapping[str, Option] = {}
    started: str = ""
    seconds: float = 0.0
    machine: Mapping[str, str] = {}
    folder: str = ""


class RunDocument(Record, frozen=True, tag_field="schema_version", tag=SCHEMA_VERSION):
    """Everything one run has to say. A field of a record that is absent has its default.

    Attributes:
        command: the last command that worked on it.
        inputs: by role: a, b, data, permutation, checkpoint, model.1, model.2, …
        outputs: paths by role: aligned, permutation, merged, points, applied, plot.
        hashes: sha256 of outputs by role; of a sharded checkpoint that of its files' (see `scan`), of points none.
        warnings: what a reader of the figures must know.
        device: where the similarities were computed.
        peak_memory_bytes: largest resident memory of the process.
        at: λ of the merged checkpoint.
        invocations: every command that worked on it, in the order of a pipe; of `inspect` and `arch` none.
    """

    command: str
    inputs: Mapping[str, InputRecord] = {}
    architecture: ArchitectureRecord | None = None
    match: MatchRecord | None = None
    distance: DistanceRecord | None = None
    barrier: BarrierRecord | None = None
    outputs: Mapping[str, str] = {}
    hashes: Mapping[str, str] = {}
    warnings: tuple[str, ...] = field(default_factory=lambda: ())  # msgspec writes it even if there are none
    versions: Mapping[str, str] = {}
    device: str = "cpu"
    peak_memory_bytes: int = 0
    tensors: Mapping[str, TensorRecord] | None = None
    architectures: tuple[ListedArchitecture, ...] | None = None
    checks: tuple[CheckRecord, ...] | None = None
    plan: PlanRecord | None = None
    merge: MergeRecord | None = None
    at: float | None = None
    derivation: DerivationRecord | None = None
    plane: PlaneRecord | None = None
    invocations: tuple[InvocationRecord, ...] = ()
    verdict: VerdictRecord | None = None
    members: MembersRecord | None = None
