"""The run document: what went in, what was found and what was written, as one value.

It is what a command prints into a pipe and what the next command works on. Its JSON form is described by
`run-document.schema.json` beside this file; `codec.py` turns one into the other.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from math import isnan
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

SCHEMA_VERSION = 1
NATS = "nats per example"
"""What losses are in, unless a document says otherwise."""
Kind = Literal["naive", "aligned", "bn", "repair"]

if TYPE_CHECKING:
    Figure = float
else:

    class Figure(ABC):  # noqa: B024  # every float is one: msgspec has no other way to read `null` as a number
        """A number; `null` if it is not finite."""

    Figure.register(float)


Option = bool | int | float | str | tuple[str, ...]
"""The value of an option."""


class Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the document. In JSON a field that has its default is left out; one that is not known is refused."""


class InputRecord(Record, frozen=True):
    """A file that was read.

    Attributes:
        path: absolute, or in a file seen from the folder of the document.
        sha256: as the scan of the whole file gave it; None if only the header was read.
        key: the network in the file that was named (`path` ends with it, too); "" for the only or obvious one.
    """

    path: str
    sha256: str | None = None
    key: str = ""

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
        symmetry: what may be done to its units beside permuting them: `signs`; empty: nothing.
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
        symmetry: what may be done to units beside permuting them: `signs`; empty: nothing.
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


class CurveRecord(Record, frozen=True):
    """One path from A to B.

    Attributes:
        loss: at each λ, in the unit of the record around it.
        accuracy: fraction right at each λ; NaN where answers are no classes.
        barrier: max over λ of the loss above the line between the ends (Entezari et al., arXiv:2110.06296).
        barrier_to_mean: max over λ of the loss above the mean of the ends (Frankle et al., arXiv:1912.05671).
        metrics: whatever else was measured at each λ, by name.
        basis: what the points hang on, by name: hashes of inputs, permutation and examples, and options.
    """

    loss: tuple[Figure, ...]
    accuracy: tuple[Figure, ...]
    barrier: Figure
    barrier_to_mean: Figure
    metrics: Mapping[str, tuple[Figure, ...]] = {}
    basis: Mapping[str, str] = {}


class BarrierRecord(Record, frozen=True):
    """Loss along the path between the two networks.

    Attributes:
        lam: λ, the weight on B; "lambda" in JSON.
        naive: with B as it is; aligned: with π(B).
        repaired: the best path so far with its statistics repaired, by what was done: "aligned + bn".
        missing: points that were not measured yet, because the sweep was cut short; theirs are NaN too.
        unit: of the losses; empty: nats per example.
        failures: why a point could not be measured, by curve and λ ("naive, λ = 0.5"); its figures are NaN.
        split: which part of the data; examples: how many.
    """

    lam: tuple[float, ...] = field(name="lambda")
    naive: CurveRecord | None = None
    aligned: CurveRecord | None = None
    data: str = ""
    split: str | None = None
    examples: int = 0
    repaired: Mapping[str, CurveRecord] = {}
    failures: Mapping[str, str] = {}
    missing: int = 0
    unit: str = ""

    @property
    def loss_unit(self) -> str:
        """What losses and barriers are in."""
        return self.unit or NATS

    @property
    def has_accuracy(self) -> bool:
        """Whether there is an accuracy anywhere: of answers that are no classes there is none."""
        return any(not isnan(value) for curve in self.curves.values() for value in curve.accuracy)

    @property
    def curves(self) -> dict[str, CurveRecord]:
        """Every curve that was measured, by name, in the order in which they are shown."""
        found = {"naive": self.naive, "aligned": self.aligned, **self.repaired}
        return {name: curve for name, curve in found.items() if curve is not None}

    def kind(self, name: str) -> Kind:
        """What was done to B, or at last to the points of a curve, before it was measured."""
        if name not in self.repaired:
            return "naive" if name == "naive" else "aligned"
        return "bn" if self.repaired[name].basis.get("repair") == "bn" else "repair"

    @property
    def best(self) -> tuple[str, CurveRecord] | None:
        """The curve that the most was done for, with its name: repaired as was asked for last, or aligned, or naive.

        It is the one that a limit holds for and a checkpoint is written of.
        """
        return next(reversed(self.curves.items()), None)


class PlanePointRecord(Record, frozen=True):
    """A network of the plane that has a name: where it lies, and what it is worth (accuracy: NaN if there is none)."""

    x: float
    y: float
    loss: Figure
    accuracy: Figure


class PlaneRecord(Record, frozen=True):
    """Loss in the plane through A, B and π(B) (Figure 1 of the paper).

    Attributes:
        x, y: coordinates of the grid, in Euclidean distances of weights: A is (0, 0), and π(B) lies on the x axis.
        loss: at y (row) and x; NaN where it is not finite or was not measured.
        accuracy: fraction right, in the same places.
        points: the corners and the middles of two sides, by name.
        repair: what was done to the statistics of every point but the corners.
        basis, failures, missing, unit, data, split, examples: as in the record of a barrier.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    loss: tuple[tuple[Figure, ...], ...]
    accuracy: tuple[tuple[Figure, ...], ...]
    points: Mapping[str, PlanePointRecord] = {}
    data: str = ""
    split: str | None = None
    examples: int = 0
    repair: str = ""
    basis: Mapping[str, str] = {}
    failures: Mapping[str, str] = {}
    missing: int = 0
    unit: str = ""

    @property
    def loss_unit(self) -> str:
        """What losses are in."""
        return self.unit or NATS


class ScoreRecord(Record, frozen=True):
    """What one network is worth: loss, fraction right (NaN if there is none), and whatever else by name."""

    loss: Figure
    accuracy: Figure
    metrics: Mapping[str, Figure] = {}


class PairRecord(Record, frozen=True):
    """Two of the models of a merge.

    Attributes:
        first, second: their roles among the inputs.
        before, after: their distance as they are, and in the common order of units.
        naive, aligned: barrier between them as they are, and in the common order (Entezari et al.); None without data.
    """

    first: str
    second: str
    before: Figure
    after: Figure
    naive: float | None = None
    aligned: float | None = None


class MergeRecord(Record, frozen=True):
    """How N models were brought together.

    Attributes:
        weights: of the models, in their order; they sum to 1.
        objective: Σ_{i<j} w_i w_j ⟨π_i(M_i), π_j(M_j)⟩ as they are, then after every round.
        stop: as in the record of a match.
        seconds: wall time of matching; matches: how many of one network to another or to a mean.
        moved: of each model, the fraction of its units whose place changed, averaged over dims.
        unit: of the losses; empty: nats per example.
        failures: why a network could not be measured, by what it is; its figures are NaN.
        scores: by role of a model, and of the `ensemble` of all, the `naive average`, `merged` and, repaired,
            `naive average + bn` and `merged + bn`, the written one last; empty without data.
    """

    algorithm: str
    method: str
    weights: tuple[float, ...]
    seed: int
    objective: tuple[Figure, ...]
    stop: str
    seconds: float
    matches: int
    moved: tuple[float, ...] = ()
    pairs: tuple[PairRecord, ...] = ()
    scores: Mapping[str, ScoreRecord] = {}
    data: str = ""
    unit: str = ""
    failures: Mapping[str, str] = {}

    @property
    def loss_unit(self) -> str:
        """What losses and barriers are in."""
        return self.unit or NATS

    @property
    def has_accuracy(self) -> bool:
        """Whether there is an accuracy anywhere."""
        return any(not isnan(score.accuracy) for score in self.scores.values())

    @property
    def written(self) -> ScoreRecord | None:
        """What the merge that is written is worth, repaired as was asked for last; None without data."""
        return list(self.scores.values())[-1] if "merged" in self.scores else None


class VerdictRecord(Record, frozen=True):
    """What a merge is worth, in one line and in figures; None is what was not measured.

    Attributes:
        text: the line; bad: whether it is a warning.
        basis: what it is read from.
        loss: of the merge that is written; members: mean loss of the models, by their weights; ensemble: loss of
            their averaged outputs.
        kept: share of what the ensemble gains over a single model; negative where the merge is worse than one.
        cosine: the least between two of the models in one order, where nothing was measured.
        scores: of the networks at λ, the written one last (a merge's own record has its scores).
    """

    text: str
    bad: bool
    basis: Literal["losses", "cosines"]
    loss: Figure | None = None
    members: Figure | None = None
    ensemble: Figure | None = None
    kept: Figure | None = None
    cosine: Figure | None = None
    scores: Mapping[str, ScoreRecord] = {}


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
        members: in the order in which they were named.
        together: whether all were brought into one order, and not each onto A alone.
        basis: what their outputs hang on beside the members themselves, by name: hashes, and options.
        missing: how many had not been begun when the run was cut short.
    """

    members: tuple[MemberRecord, ...]
    together: bool = False
    basis: Mapping[str, str] = {}
    missing: int = 0

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
        complete: whether all was decided in time.
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
