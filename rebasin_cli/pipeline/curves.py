"""Loss along the path: the network, the data, both curves, and what their ends say about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from rebasin_cli.checkpoints import Checkpoint
from rebasin_cli.errors import ContentError, GateError, UsageError
from rebasin_cli.evaluation import Curve, Scores, measure_path
from rebasin_cli.merging import LINE, Blend, interpolated
from rebasin_cli.permutation import Permutation, permuted
from rebasin_cli.pipeline.binding import Pair
from rebasin_cli.pipeline.judges import Judge, measured
from rebasin_cli.pipeline.listener import Listener
from rebasin_cli.report.document import BarrierRecord, CurveRecord, RunDocument
from rebasin_cli.report.figures import loss_text, percent_text

_HOLD = 2_000_000_000
"""Bytes of both checkpoints up to which they are kept in memory for the sweep instead of being read at every λ."""

_NEAR_CHANCE = 1.25
"""An end that is right no more than this many times as often as always guessing the commonest label knows nothing."""


_IN_A_ROW = 3
"""After so many failures one after the other the rest of a curve is not tried."""


def measure_barrier(
    judge: Judge,
    pair: Pair,
    permutation: Permutation | None,
    grid: Sequence[float],
    *,
    listener: Listener,
    first: Scores | None = None,
    blend: Blend = LINE,
) -> BarrierRecord:
    """Sweep λ from A to B as it is, and to π(B) if there is a permutation.

    Args:
        first: what A is worth, where that was measured before.
        blend: how the points between are combined.
    """
    a, b = _held(pair.a, pair), _held(pair.b, pair)
    sweeper = _Sweeper(judge, pair, tuple(grid), listener, first, blend)
    naive = sweeper.curve(a, b, "naive")
    aligned = None
    if permutation is not None:
        moved: Mapping[str, Tensor] = permuted(permutation, pair.layout, b)
        if isinstance(b, dict):
            moved = {key: moved[key] for key in b}  # permuted once, not at every λ
        aligned = sweeper.curve(a, moved, "aligned")
        b = moved
    repaired = _repaired(sweeper, a, b, "naive" if aligned is None else "aligned")
    _tell_ends(judge, naive, listener)
    if not repaired:
        _tell_buffers(pair, listener)
    return BarrierRecord(
        lam=tuple(grid),
        naive=_record(naive),
        aligned=_record(aligned) if aligned else None,
        data=judge.source,
        split=judge.split,
        examples=judge.examples,
        repaired={name: _record(curve) for name, curve in repaired.items()},
        failures=sweeper.failures,
    )


def _repaired(sweeper: _Sweeper, a: Mapping[str, Tensor], b: Mapping[str, Tensor], base: str) -> dict[str, Curve]:
    """The last curve once more for every kind of repair."""
    found: dict[str, Curve] = {}
    for kind in sweeper.judge.repairs:
        repairer = sweeper.judge.repairer
        assert repairer is not None
        if kind == "repair":
            repairer.measure_ends(a, b)
        found[f"{base} + {kind}"] = sweeper.curve(a, b, f"{base} + {kind}", partial(repairer.finish, kind=kind))
    return found


def check_measured(document: RunDocument) -> None:
    """Answer points that could not be measured, once everything that was has been written.

    Raises:
        ContentError: naming the first of them.
    """
    failures = document.barrier.failures if document.barrier else {}
    if failures:
        place, why = next(iter(failures.items()))
        raise ContentError(
            f"{len(failures)} points of the path could not be measured; {place}: {why}",
            remedy="everything else was measured and written; --at LAM -o FILE writes such a point, to try it by hand",
        )


def check_gate(document: RunDocument, limit: float) -> None:
    """`--max-barrier`: the rise above the line between the ends, of the repaired path, or else the aligned one.

    Raises:
        GateError: it is higher than `limit`, or not a number.
    """
    barrier = document.barrier
    if barrier is None or not barrier.curves:
        raise UsageError("--max-barrier needs a barrier, and without data there is none", remedy="add --data FILE")
    name, curve = list(barrier.curves.items())[-1]
    if not curve.barrier <= limit:
        raise GateError(
            f"the {name} barrier is {loss_text(curve.barrier)} nats, above --max-barrier {limit:g}",
            where=f"largest loss above the line between the ends, {barrier.examples} examples",
            remedy="another --seed may find a better optimum; everything was written all the same",
        )


def _held(checkpoint: Checkpoint, pair: Pair) -> Mapping[str, Tensor]:
    return dict(checkpoint) if pair.a.nbytes + pair.b.nbytes <= _HOLD else checkpoint


Finish = Callable[[Mapping[str, Tensor], float], Mapping[str, Tensor]]


@dataclass(slots=True)
class _Sweeper:
    """Measures curves over one grid; `failures` by curve and λ."""

    judge: Judge
    pair: Pair
    grid: tuple[float, ...]
    listener: Listener
    first: Scores | None
    blend: Blend
    failures: dict[str, str] = field(default_factory=dict)

    def curve(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], name: str, finish: Finish | None = None) -> Curve:
        """Loss at every λ from `a` to `b`; a point that cannot be measured is NaN."""
        failed = 0

        def measure(lam: float) -> Scores:
            nonlocal failed
            if lam == 0.0 and self.first is not None:
                return self.first
            if failed >= _IN_A_ROW:
                self.failures[f"{name}, λ = {lam:g}"] = f"not tried, after {_IN_A_ROW} failures one after the other"
                return Scores(math.nan)
            state = interpolated(self.pair.layout_a, a, b, lam, self.blend)
            place = f"{name}, λ = {lam:g}"
            scores = measured(self.judge, finish(state, lam) if finish else state, self.failures, place)
            failed = failed + 1 if place in self.failures else 0
            if place in self.failures:
                self.listener.warn(f"{place} could not be measured: {self.failures[place]}")
            return scores

        with self.listener.phase(f"{name} path", len(self.grid), "points") as advance:
            curve = measure_path(measure, self.grid, lambda done, of: advance(1))
        unknown = [x for x in curve.non_finite if f"{name}, λ = {x:g}" not in self.failures]
        if unknown:
            where = ", ".join(f"{x:g}" for x in unknown)
            self.listener.warn(f"the loss of the {name} path is not finite at λ = {where}")
        return curve


def _record(curve: Curve) -> CurveRecord:
    return CurveRecord(curve.loss, curve.accuracy, curve.barrier, curve.barrier_to_mean, curve.metrics)


def _tell_ends(judge: Judge, curve: Curve, listener: Listener) -> None:
    """Ends that know nothing make any barrier meaningless: usually the wrong data, or an option that is missing."""
    chance = judge.chance
    if chance == 1.0:
        return
    for name, accuracy, loss in (("A", curve.accuracy[0], curve.loss[0]), ("B", curve.accuracy[-1], curve.loss[-1])):
        if accuracy <= chance * _NEAR_CHANCE < 1 or not math.isfinite(loss):
            listener.warn(
                f"{name} is right on {percent_text(accuracy)} of the examples, near chance ({percent_text(chance)}): "
                "its barrier says little; check --data and --network-option"
            )


def _tell_buffers(pair: Pair, listener: Listener) -> None:
    buffers = sum(bound.section == "buffers" for bound in pair.layout.tensors.values())
    if buffers:
        listener.warn(
            f"{buffers} running statistics are interpolated, not recomputed: between the ends they do not fit the "
            "interpolated weights, which makes both barriers higher than they need be: --repair bn recomputes them"
        )
