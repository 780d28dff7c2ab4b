"""The figures behind a verdict, each with its name and a word on it: what a page and a model card begin with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Literal

from rebasin_cli.report.contents import headline
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.figures import loss_text, measure_text, percent_text
from rebasin_cli.report.measurements import BarrierRecord, MergeRecord
from rebasin_cli.report.verdict import ERROR_RISE, LOSS_RISE, error_rise, is_one_basin, verdict

Tone = Literal["good", "open", "bad", "plain"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure: its name, what it was and became, and a word on it."""

    name: str
    steps: tuple[str, ...]
    note: str = ""


def sentence(document: RunDocument) -> str:
    """The verdict; of commands that align nothing their headline."""
    return (verdict(document) if document.plan is None else "") or headline(document)


def tone(document: RunDocument) -> Tone:
    """Whether the result is good, as far as it is known."""
    if document.merge is not None:
        measured = document.verdict if document.verdict and document.verdict.basis == "losses" else None
        return _tone_of_merge(document.merge) if measured is None else "bad" if measured.bad else "good"
    if document.barrier is None or not document.barrier.curves:
        return "plain"
    one = is_one_basin(document.barrier)
    return "open" if one is None else "good" if one else "bad"


def tiles(document: RunDocument) -> tuple[Tile, ...]:
    """Cosine, distance, barriers, whether it is one basin, and the function; or the figures of a merge."""
    return tuple(_of_merge(document.merge) if document.merge is not None else _of_pair(document))


def _of_pair(document: RunDocument) -> Iterator[Tile]:
    distance, barrier = document.distance, document.barrier
    if distance:
        cosines = (f"{distance.cosine_before:.3f}", f"{distance.cosine_after:.3f}")
        yield Tile("Cosine of A and B", cosines, "of all matched weights")
        yield Tile("Distance", (measure_text(distance.before), measure_text(distance.after)), "‖A − B‖ → ‖A − π(B)‖")
    if barrier and barrier.best:
        shown = {name: barrier.curves[name] for name in ("naive", "aligned", barrier.best[0]) if name in barrier.curves}
        steps = tuple(loss_text(curve.barrier) for curve in shown.values())
        yield Tile("Loss barrier", steps, f"{' → '.join(shown)}, {barrier.loss_unit}")
        one = is_one_basin(barrier)
        yield Tile("One basin", ({True: "yes", False: "no", None: "not decided"}[one],), _rule(barrier))
    if document.verdict:
        losses = document.verdict.members, document.verdict.loss
        steps = tuple(loss_text(loss) for loss in losses if loss is not None) or ("not measured",)
        yield Tile("Loss of a model and of the merge", steps, document.verdict.text)
    checked = document.architecture.checked if document.architecture else None
    if checked:
        kept = checked.error is not None
        note = f"outputs unchanged to {checked.error:.0e}" if kept else "names and shapes fit; no network was run"
        yield Tile("Function of B", ("kept" if kept else "assumed",), note)


def _rule(barrier: BarrierRecord) -> str:
    """By what it is judged."""
    if barrier.best is None or any(map(isnan, barrier.best[1].accuracy)):
        return f"limit: a barrier of {100 * LOSS_RISE:.0f} % of the ends' mean loss"
    rise = max(error_rise(barrier, barrier.best[1]), 0.0)
    return f"errors rise by {percent_text(rise)} above the line between the ends; limit {100 * ERROR_RISE:.0f} %"


def _of_merge(merge: MergeRecord) -> Iterator[Tile]:
    before, after = (sum(getattr(p, w) for p in merge.pairs) / max(1, len(merge.pairs)) for w in ("before", "after"))
    yield Tile("Distance of two", (measure_text(before), measure_text(after)), "mean of all pairs, in one order")
    members = _member_losses(merge)
    if merge.written is not None and members:
        steps = (loss_text(merge.scores["naive average"].loss), loss_text(merge.written.loss))
        yield Tile("Loss", steps, f"naive average → merged, {merge.loss_unit}")
        each = f"{loss_text(min(members))} to {loss_text(max(members))}"
        yield Tile("Each alone", (each,), "lowest and highest loss of a member")
    barriers = [(p.naive, p.aligned) for p in merge.pairs if p.naive is not None and p.aligned is not None]
    if barriers:
        worst = tuple(loss_text(max(pair[k] for pair in barriers)) for k in (0, 1))
        yield Tile("Highest barrier of two", worst, "naive → in one order")


def _member_losses(merge: MergeRecord) -> list[float]:
    return [score.loss for name, score in merge.scores.items() if name.startswith("model.")]


def _tone_of_merge(merge: MergeRecord) -> Tone:
    """Good: as good as a member, or nearer than a tenth of the way to the naive average; bad: no better than that."""
    members = _member_losses(merge)
    if merge.written is None or not members:
        return "plain"
    loss, naive, mean = merge.written.loss, merge.scores["naive average"].loss, sum(members) / len(members)
    if not all(map(isfinite, (loss, naive, mean))):
        return "open"
    if loss <= max(*members, mean + LOSS_RISE * (naive - mean)):
        return "good"
    return "open" if loss < naive else "bad"
