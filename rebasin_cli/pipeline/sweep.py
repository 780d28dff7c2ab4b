"""Loss along the path: the network, the data, both curves, and what their ends say about them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.barrier import Curve
from rebasin_cli.evaluation.calibration import HIGH, LOW
from rebasin_cli.evaluation.evaluate import as_curve
from rebasin_cli.evaluation.scores import Scores
from rebasin_cli.merging.interpolation import interpolated
from rebasin_cli.merging.options import LINE, Blend
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.layouts import Pair, SpecChoice
from rebasin_cli.pipeline.record import bin_records
from rebasin_cli.pipeline.resume import NO_SWEEP, Basis, EarlierSweep, place_of
from rebasin_cli.pipeline.scoring import NetworkScorer, Scorer, score_or_nan
from rebasin_cli.report.document import InputRecord
from rebasin_cli.report.figures import loss_text, percent_text
from rebasin_cli.report.measurements import ENSEMBLE, NATS, BarrierRecord, CurveRecord
from rebasin_cli.spec import Layout

_HOLD = 2_000_000_000
"""Bytes of both checkpoints up to which they are kept in memory for the sweep instead of being read at every λ."""

_NEAR_CHANCE = 1.25
"""An end that is right no more than this many times as often as always guessing the commonest label knows nothing."""


_IN_A_ROW = 3
"""After this many failures in a row the rest of a curve is not tried."""


Keep = Callable[[Callable[[], BarrierRecord]], None]
"""Called at the start and after every point with what makes a record of the points so far."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a path is measured by, with its first point.

    Attributes:
        blend: how the points between the ends are combined.
        basis: what the points of the naive curve depend on.
        first: what A is worth.
        kept: what an earlier run measured.
    """

    scorer: Scorer
    pair: Pair
    blend: Blend
    basis: Basis
    first: Scores
    kept: EarlierSweep


def begin_sweep(
    scorer: Scorer, pair: Pair, spec: SpecChoice, inputs: Mapping[str, InputRecord], grid: Sequence[float],
    *, blend: Blend = LINE, kept: EarlierSweep = NO_SWEEP, force: bool = False,
) -> Sweep:  # fmt: skip
    """See that A can be judged and that `kept` is of this sweep, before anything that takes time.

    Raises:
        UsageError: the document that would be gone on with is another sweep's or has more; not with `force`.
        ContentError: A cannot be judged.
    """
    options = {"set": dict(spec.sizes), "freeze": list(spec.freeze), "ignore": list(spec.ignore)}
    basis = {
        **{role.upper(): inputs[role].identity for role in ("a", "b")},
        "spec": pair.layout.spec.sha256,
        "spec options": json.dumps(options, sort_keys=True) if any(options.values()) else "",
        "path": blend.how,
        **scorer.basis,
    }
    basis = {name: value for name, value in basis.items() if value}
    if not force:
        kept.check(basis, grid, scorer.repairs, ensemble=scorer.ensemble)
    first = kept.points(basis).get(0.0) or scorer.measure(pair.a)
    return Sweep(scorer, pair, blend, basis, first, kept)


def measure_barrier(
    sweep: Sweep, permutation: Permutation | None, grid: Sequence[float], *, progress: Progress, keep: Keep
) -> BarrierRecord:
    """Measure from A to B as it is, to π(B) if there is a permutation, and repaired if that was asked for."""
    scorer, pair = sweep.scorer, sweep.pair
    a, b = held(pair.a, pair), held(pair.b, pair)
    number = 1 + (permutation is not None) + len(scorer.repairs) + scorer.ensemble
    sweeper = _Sweeper(sweep, tuple(grid), progress, keep, number)
    naive = sweeper.curve(a, b, "naive", {})
    more: dict[str, str] = {}
    if permutation is not None:
        moved = moved_once(permutation, pair, b)
        more = {"permutation": permutation.sha256()}
        sweeper.curve(a, moved, "aligned", more)
        b = moved
    _repair(sweeper, a, b, "naive" if permutation is None else "aligned", more)
    if isinstance(scorer, NetworkScorer) and scorer.ensemble:
        sweeper.ensemble(scorer, (pair.a, pair.b))
    if isinstance(scorer, NetworkScorer) and scorer.calibrate is not None:
        _tell_temperatures(sweeper.record(), progress)
    _tell_ends(scorer, naive, progress)
    if not scorer.repairs:
        tell_buffers(pair.layout, progress)
    return sweeper.record()


def _repair(
    sweeper: _Sweeper, a: Mapping[str, Tensor], b: Mapping[str, Tensor], base: str, more: Mapping[str, str]
) -> None:
    """The last curve once more for every kind of repair."""
    scorer = sweeper.sweep.scorer
    for kind in scorer.repairs:
        repairer = scorer.repairer
        assert repairer is not None
        whole = {**more, "repair": kind, "fitted on": repairer.examples.sha256()}
        if kind == "repair" and sweeper.lacks(whole):
            repairer.measure_ends(a, b)
        sweeper.curve(a, b, f"{base} + {kind}", whole, partial(repairer.finish, kind=kind))


def held(checkpoint: Checkpoint, pair: Pair) -> Mapping[str, Tensor]:
    """A checkpoint as it is read at every point: from memory, where both fit."""
    return dict(checkpoint) if pair.a.nbytes + pair.b.nbytes <= _HOLD else checkpoint


def moved_once(permutation: Permutation, pair: Pair, b: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """π(B) as it is read at every point: where B is in memory it is permuted once."""
    moved = permuted(permutation, pair.layout, b)
    return {key: moved[key] for key in b} if isinstance(b, dict) else moved


Finish = Callable[[Mapping[str, Tensor], float], Mapping[str, Tensor]]


@dataclass(slots=True)
class _Sweeper:
    """Measures curves over one grid.

    Attributes:
        number: of curves that there will be; `curves` are those so far.
        failures: by curve and λ.
    """

    sweep: Sweep
    grid: tuple[float, ...]
    progress: Progress
    keep: Keep
    number: int
    curves: dict[str, tuple[Basis, list[Scores]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def curve(
        self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], name: str, more: Basis, finish: Finish | None = None
    ) -> Curve:
        """Loss at every λ from `a` to `b`; a point that cannot be measured is NaN. `more` belongs to its basis."""
        known = self._known(more)
        found: list[Scores] = []
        self.curves[name] = ({**self.sweep.basis, **more}, found)
        failed = 0
        self.keep(self.record)
        with self.progress.phase(f"{name} path", len(self.grid), "points") as advance:
            for lam in self.grid:
                place = f"{name}, λ = {lam:g}"
                scores = known.get(place_of(lam))
                if scores is None and failed >= _IN_A_ROW:
                    self.failures[place] = f"not tried, after {_IN_A_ROW} failures one after the other"
                    scores = Scores(math.nan)
                elif scores is None:
                    state = interpolated(self.sweep.pair.layout, a, b, lam, self.sweep.blend)
                    scores = score_or_nan(
                        self.sweep.scorer, finish(state, lam) if finish else state, self.failures, place
                    )
                    failed = failed + 1 if place in self.failures else 0
                    if place in self.failures:
                        self.progress.warn(f"{place} could not be measured: {self.failures[place]}")
                found.append(scores)
                self.keep(self.record)
                self.progress.reached("loss", scores.loss)
                advance(1)
        curve = as_curve(self.grid, found)
        unknown = [x for x in curve.non_finite if f"{name}, λ = {x:g}" not in self.failures]
        if unknown:
            where = ", ".join(f"{x:g}" for x in unknown)
            self.progress.warn(f"the loss of the {name} path is not finite at λ = {where}")
        return curve

    def ensemble(self, scorer: NetworkScorer, ends: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]) -> None:
        """The averaged answers of both ends by the weights 1 − λ and λ, from one pass over the examples."""
        more = {"curve": "averaged answers"}
        _, naive = self.curves["naive"]
        known = {**self._known(more), 1.0: naive[-1]}
        open_points = [lam for lam in self.grid if place_of(lam) not in known]
        if open_points:
            with self.progress.phase(f"{ENSEMBLE} of both ends", 1, "passes") as advance:
                try:
                    found = scorer.measure_mixtures(ends, [(1 - lam, lam) for lam in open_points])
                except ContentError as error:
                    found = [Scores(math.nan)] * len(open_points)
                    self.failures |= {f"{ENSEMBLE}, λ = {lam:g}": error.what for lam in open_points}
                    self.progress.warn(f"the {ENSEMBLE} could not be measured: {error.what}")
                advance(1)
            known |= dict(zip(map(place_of, open_points), found, strict=True))
        self.curves[ENSEMBLE] = ({**self.sweep.basis, **more}, [known[place_of(lam)] for lam in self.grid])
        self.keep(self.record)

    def lacks(self, more: Basis) -> bool:
        """Whether there are points between the ends that were not measured before."""
        known = self._known(more)
        return any(place_of(lam) not in known for lam in self.grid)

    def record(self) -> BarrierRecord:
        """What was measured so far."""
        records: dict[str, CurveRecord] = {}
        for name, (basis, found) in self.curves.items():
            rest = [Scores(math.nan)] * (len(self.grid) - len(found))
            records[name] = _record(as_curve(self.grid, [*found, *rest]), basis)
        scorer = self.sweep.scorer
        naive, aligned = (records.pop(name, None) for name in ("naive", "aligned"))
        ensemble = records.pop(ENSEMBLE, None)
        done = sum(len(found) for _, found in self.curves.values())
        return BarrierRecord(
            lam=self.grid,
            naive=naive,
            aligned=aligned,
            data=scorer.source,
            split=scorer.split,
            examples=scorer.examples,
            unit="" if scorer.unit == NATS else scorer.unit,
            repaired=records,
            failures=dict(self.failures),
            missing=self.number * len(self.grid) - done,
            ensemble=ensemble,
        )

    def _known(self, more: Basis) -> dict[float, Scores]:
        return {**self.sweep.kept.points({**self.sweep.basis, **more}), 0.0: self.sweep.first}


def _record(curve: Curve, basis: Basis) -> CurveRecord:
    reliability = tuple(map(bin_records, curve.reliability))
    barriers = (curve.barrier, curve.barrier_to_mean)
    return CurveRecord(curve.loss, curve.accuracy, *barriers, curve.metrics, basis, reliability)


def _tell_ends(scorer: Scorer, curve: Curve, progress: Progress) -> None:
    """Ends that know nothing make any barrier meaningless: usually the wrong data, or an option that is missing."""
    for name, loss in (("A", curve.loss[0]), ("B", curve.loss[-1])):
        if loss >= scorer.blind:
            progress.warn(
                f"{name}'s loss is {loss_text(loss)}, and one answer for every example has {loss_text(scorer.blind)}: "
                "its barrier says little; check --data and --network-option"
            )
    chance = scorer.chance
    if chance == 1.0:
        return
    for name, accuracy, loss in (("A", curve.accuracy[0], curve.loss[0]), ("B", curve.accuracy[-1], curve.loss[-1])):
        if accuracy <= chance * _NEAR_CHANCE < 1 or not math.isfinite(loss):
            progress.warn(
                f"{name} is right on {percent_text(accuracy)} of the examples, near chance ({percent_text(chance)}): "
                "its barrier says little; check --data and --network-option"
            )


def _tell_temperatures(barrier: BarrierRecord, progress: Progress) -> None:
    """Say what temperatures are not part of, and where none is best: all examples are right, or all answers alike."""
    progress.remark(
        "every point is judged at a temperature of its own, the metric `temperature`: no checkpoint holds it, and "
        "the logits of one that is written are to be divided by it"
    )
    for name, curve in barrier.curves.items():
        temperatures = zip(barrier.lam, curve.metrics.get("temperature", ()), strict=False)
        beyond = [f"{lam:g}" for lam, found in temperatures if not 2 / HIGH < found < 0.5 / LOW]
        if beyond:
            progress.warn(
                f"{name}, λ = {', '.join(beyond)}: no temperature fits the examples best, as all are answered right or "
                "all alike; fit on others, which the networks were not trained on: --fit-data FILE"
            )


def tell_buffers(layout: Layout, progress: Progress) -> None:
    """Say that running statistics were mixed like weights, where there are any."""
    buffers = sum(bound.section == "buffers" for bound in layout.tensors.values())
    if buffers:
        progress.warn(
            f"{buffers} running statistics are interpolated, not recomputed: they do not fit the mixed weights, which "
            "makes losses and barriers higher than they need be: --repair bn recomputes them"
        )
