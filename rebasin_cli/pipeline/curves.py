"""Loss along the path: the network, the data, both curves, and what their ends say about them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor

from rebasin_cli.checkpoints import Checkpoint
from rebasin_cli.errors import GateError, UsageError
from rebasin_cli.evaluation import (
    DEFAULT_BATCH_SIZE,
    Curve,
    Dataset,
    Network,
    Split,
    build_network,
    check_fits,
    load_data,
    sweep,
)
from rebasin_cli.merging import interpolated
from rebasin_cli.permutation import Permutation, permuted
from rebasin_cli.pipeline.binding import Pair
from rebasin_cli.pipeline.listener import Listener
from rebasin_cli.pipeline.repairing import FIT_EXAMPLES, Kind, Repairer
from rebasin_cli.report.document import BarrierRecord, CurveRecord, RunDocument
from rebasin_cli.report.figures import loss_text, percent_text

_HOLD = 2_000_000_000
"""Bytes of both checkpoints up to which they are kept in memory for the sweep instead of being read at every λ."""

_NEAR_CHANCE = 1.25
"""An end that is right no more than this many times as often as always guessing the commonest label knows nothing."""


@dataclass(frozen=True, slots=True)
class DataRequest:
    """What to evaluate on: `--data`, `--split`, `--limit`, `--batch-size`, `--network-option`.

    Attributes:
        fit: where statistics are fitted, if not on the training half of `path`; fit_limit: on how many examples.
        repairs: what to do to the points of the path, each a curve of its own.
    """

    path: Path
    split: Split = "test"
    limit: int | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    options: Mapping[str, str] = field(default_factory=dict)
    fit: Path | None = None
    fit_limit: int = FIT_EXAMPLES
    repairs: tuple[Kind, ...] = ()


@dataclass(frozen=True, slots=True)
class Judge:
    """A network and the examples it is judged on, which fit each other.

    Attributes:
        repairer: what finishes the points of the path, if they are to be repaired.
    """

    network: Network
    dataset: Dataset
    batch_size: int
    repairer: Repairer | None = None
    repairs: tuple[Kind, ...] = ()


def prepare_judge(request: DataRequest, pair: Pair, device: str, listener: Listener) -> Judge:
    """Build the network, read the data, see that they fit.

    Raises:
        RebasinError: no network for the architecture, unknown options, or data that does not fit it.
    """
    network = build_network(pair.layout_a, pair.a.infos, request.options)
    for assumption in network.assumptions:
        listener.remark(f"not told by the shapes, so taken for granted: {assumption}")
    dataset = load_data(request.path, request.split, request.limit)
    check_fits(network, dataset)
    if not request.repairs:
        return Judge(network, dataset, request.batch_size)
    repairer = Repairer(network, fitting_data(request, listener), device, listener)
    check_fits(network, repairer.examples)
    for kind in request.repairs:
        repairer.check(kind)
    return Judge(network, dataset, request.batch_size, repairer, request.repairs)


def fitting_data(request: DataRequest, listener: Listener) -> Dataset:
    """The examples that statistics are taken from; of a folder with two halves the training half."""
    if request.fit is None and not request.path.is_dir():
        listener.remark("statistics are fitted on examples of --data itself; --fit-data FILE names others")
    return load_data(request.fit or request.path, "train", request.fit_limit)


def measure_barrier(
    judge: Judge,
    pair: Pair,
    permutation: Permutation | None,
    grid: Sequence[float],
    *,
    device: str,
    listener: Listener,
) -> BarrierRecord:
    """Sweep λ from A to B as it is, and to π(B) if there is a permutation."""
    a, b = _held(pair.a, pair), _held(pair.b, pair)
    naive = _curve(judge, pair, a, b, grid, "naive path", device, listener)
    aligned = None
    if permutation is not None:
        moved: Mapping[str, Tensor] = permuted(permutation, pair.layout, b)
        if isinstance(b, dict):
            moved = {key: moved[key] for key in b}  # permuted once, not at every λ
        aligned = _curve(judge, pair, a, moved, grid, "aligned path", device, listener)
        b = moved
    repaired = _repaired(judge, pair, a, b, grid, "naive" if aligned is None else "aligned", device, listener)
    _tell_ends(judge, naive, listener)
    if not repaired:
        _tell_buffers(pair, listener)
    return BarrierRecord(
        lam=tuple(grid),
        naive=_record(naive),
        aligned=_record(aligned) if aligned else None,
        data=os.path.abspath(judge.dataset.source),
        split=judge.dataset.split,
        examples=len(judge.dataset),
        repaired={name: _record(curve) for name, curve in repaired.items()},
    )


def _repaired(
    judge: Judge,
    pair: Pair,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    grid: Sequence[float],
    base: str,
    device: str,
    listener: Listener,
) -> dict[str, Curve]:
    """The last curve once more for every kind of repair."""
    found: dict[str, Curve] = {}
    for kind in judge.repairs:
        repairer = judge.repairer
        assert repairer is not None
        if kind == "repair":
            repairer.measure_ends(a, b)
        finish = partial(repairer.finish, kind=kind)
        found[f"{base} + {kind}"] = _curve(judge, pair, a, b, grid, f"{base} + {kind} path", device, listener, finish)
    return found


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


def _curve(
    judge: Judge,
    pair: Pair,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    grid: Sequence[float],
    title: str,
    device: str,
    listener: Listener,
    finish: Callable[[Mapping[str, Tensor], float], Mapping[str, Tensor]] | None = None,
) -> Curve:
    def states(lam: float) -> Mapping[str, Tensor]:
        state = interpolated(pair.layout_a, a, b, lam)
        return finish(state, lam) if finish else state

    with listener.phase(title, len(grid), "points") as advance:
        on_step: Callable[[int, int], None] = lambda done, of: advance(1)  # noqa: E731
        curve = sweep(
            judge.network, states, grid, judge.dataset, batch_size=judge.batch_size, device=device, on_step=on_step
        )
    if curve.non_finite:
        listener.warn(f"the loss of the {title} is not finite at λ = {', '.join(f'{x:g}' for x in curve.non_finite)}")
    return curve


def _record(curve: Curve) -> CurveRecord:
    return CurveRecord(curve.loss, curve.accuracy, curve.barrier, curve.barrier_to_mean)


def _tell_ends(judge: Judge, curve: Curve, listener: Listener) -> None:
    """Ends that know nothing make any barrier meaningless: usually the wrong data, or an option that is missing."""
    chance = float(judge.dataset.targets.bincount().max()) / len(judge.dataset)
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
