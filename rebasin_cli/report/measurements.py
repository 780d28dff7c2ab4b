"""The parts of a run document that say what was measured: losses along a path and in a plane, merges, the verdict.

And what every part of the document is: a `Record` of `Figure`s.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from math import isnan
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

NATS = "nats per example"
"""What losses are in, unless a document says otherwise."""
ENSEMBLE = "ensemble"
"""The name of the averaged answers of several networks, among their scores and curves."""
Kind = Literal["naive", "aligned", "bn", "repair", "ensemble"]

if TYPE_CHECKING:
    Figure = float
else:

    class Figure(ABC):  # noqa: B024  # every float is one: msgspec has no other way to read `null` as a number
        """A number; `null` if it is not finite."""

    Figure.register(float)


class Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the document. In JSON a field that has its default is left out; one that is not known is refused."""


class BinRecord(Record, frozen=True):
    """Answers of about one confidence, the probability of the likeliest class: a point of a reliability diagram.

    Attributes:
        count: how many; confidence: their mean, 0 to 1; accuracy: fraction of them that is right.
    """

    count: int
    confidence: Figure
    accuracy: Figure


class CurveRecord(Record, frozen=True):
    """One path from A to B.

    Attributes:
        loss: at each λ, in the unit of the record around it.
        accuracy: fraction right at each λ; NaN where answers are no classes.
        barrier: max over λ of the loss above the line between the ends (Entezari et al., arXiv:2110.06296).
        barrier_to_mean: max over λ of the loss above the mean of the ends (Frankle et al., arXiv:1912.05671).
        metrics: whatever else was measured at each λ, by name.
        basis: what the points depend on, by name: hashes of inputs, permutation and examples, and options.
        reliability: at each λ the answers by confidence (`--metric calibration-error` only).
    """

    loss: tuple[Figure, ...]
    accuracy: tuple[Figure, ...]
    barrier: Figure
    barrier_to_mean: Figure
    metrics: Mapping[str, tuple[Figure, ...]] = {}
    basis: Mapping[str, str] = {}
    reliability: tuple[tuple[BinRecord, ...], ...] = ()


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
        ensemble: the averaged answers of both ends, by the weights 1 − λ and λ; no network of the line.
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
    ensemble: CurveRecord | None = None

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
        found = {"naive": self.naive, "aligned": self.aligned, **self.repaired, ENSEMBLE: self.ensemble}
        return {name: curve for name, curve in found.items() if curve is not None}

    def kind(self, name: str) -> Kind:
        """What was done to B, or at last to the points of a curve, before it was measured."""
        if name == ENSEMBLE:
            return "ensemble"
        if name not in self.repaired:
            return "naive" if name == "naive" else "aligned"
        return "bn" if self.repaired[name].basis.get("repair") == "bn" else "repair"

    @property
    def best(self) -> tuple[str, CurveRecord] | None:
        """The curve that the most was done for, with its name: repaired as was asked for last, or aligned, or naive.

        It is the one that a limit holds for and a checkpoint is written of.
        """
        line = [(name, curve) for name, curve in self.curves.items() if name != ENSEMBLE]
        return line[-1] if line else None


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
    """What one network is worth: loss, fraction right (NaN if there is none), and the rest as in curves."""

    loss: Figure
    accuracy: Figure
    metrics: Mapping[str, Figure] = {}
    reliability: tuple[BinRecord, ...] = ()


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
