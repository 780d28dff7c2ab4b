"""Loss in the plane through A, B and π(B): measured point by point, and gone on with after a run that was cut short."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from rebasin_cli.errors import UsageError
from rebasin_cli.evaluation.scores import Scores
from rebasin_cli.matching.objective import measure_distance
from rebasin_cli.matching.problem import in_reals
from rebasin_cli.merging.plane import InPlane, Plane
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.interpolate_request import PlaneGrid
from rebasin_cli.pipeline.scoring import score_or_nan
from rebasin_cli.pipeline.sweep import Sweep, held, moved_once
from rebasin_cli.report.measurements import NATS, PlanePointRecord, PlaneRecord

Keep = Callable[[Callable[[], PlaneRecord]], None]

A, B, ALIGNED = "A", "B", "π(B)"
NAIVE_MIDDLE, ALIGNED_MIDDLE = "middle of A and B", "middle of A and π(B)"

_UNKNOWN = Scores(math.nan)


@dataclass(slots=True)
class _Measured:
    """What is known of a plane so far.

    Attributes:
        cells: by row (y) and column (x); points: by name.
    """

    sweep: Sweep
    basis: Mapping[str, str]
    x: tuple[float, ...]
    y: tuple[float, ...]
    named: Mapping[str, tuple[float, float]]
    cells: dict[tuple[int, int], Scores] = field(default_factory=dict)
    points: dict[str, Scores] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def record(self) -> PlaneRecord:
        """All of it; what is not measured yet is NaN."""
        scorer = self.sweep.scorer
        rows = [[self.cells.get((j, i), _UNKNOWN) for i in range(len(self.x))] for j in range(len(self.y))]
        return PlaneRecord(
            x=self.x,
            y=self.y,
            loss=tuple(tuple(scores.loss for scores in row) for row in rows),
            accuracy=tuple(tuple(scores.accuracy for scores in row) for row in rows),
            points={
                name: PlanePointRecord(*self.named[name], scores.loss, scores.accuracy)
                for name, scores in self.points.items()
            },
            data=scorer.source,
            split=scorer.split,
            examples=scorer.examples,
            repair=scorer.repairs[-1] if scorer.repairs else "",
            basis=self.basis,
            failures=dict(self.failures),
            missing=len(self.x) * len(self.y) + len(self.named) - len(self.cells) - len(self.points),
            unit="" if scorer.unit == NATS else scorer.unit,
        )

    def take_over(self, earlier: PlaneRecord) -> None:
        """Take what an earlier run measured of the same plane; what is not finite is measured again."""
        for j, row in enumerate(earlier.loss):
            for i, loss in enumerate(row):
                if math.isfinite(loss):
                    self.cells[j, i] = Scores(loss, earlier.accuracy[j][i])
        for name, point in earlier.points.items():
            if math.isfinite(point.loss):
                self.points[name] = Scores(point.loss, point.accuracy)


def measure_plane(
    sweep: Sweep, permutation: Permutation, grid: PlaneGrid, *, progress: Progress, keep: Keep, force: bool = False
) -> PlaneRecord:  # fmt: skip
    """Measure every point of a grid around A, B and π(B), and the three themselves.

    Its sides are distances of the weights as they are, whether units are scaled or not.

    Raises:
        ContentError: the three lie on a line.
        UsageError: the document that is gone on with is of another plane; not with `force`.
    """
    pair = sweep.pair
    layout, (a, b) = in_reals(pair.layout, pair.a, pair.b)
    sides = measure_distance(layout, a, b, permutation)
    plane = Plane.of(sides.before, sides.after, measure_distance(layout, b, b, permutation).after)
    x, y = plane.axes(grid.steps, grid.margin)
    half = (plane.b[0] / 2, plane.b[1] / 2)
    named = {A: (0.0, 0.0), B: plane.b, ALIGNED: (plane.aligned, 0.0)}
    named |= {NAIVE_MIDDLE: half, ALIGNED_MIDDLE: (plane.aligned / 2, 0.0)}
    repairs = sweep.scorer.repairs
    basis = {**sweep.basis, "permutation": permutation.sha256(), "grid": f"{grid.steps} steps, margin {grid.margin:g}"}
    basis |= {"repair": repairs[-1]} if repairs else {}
    found = _Measured(sweep, basis, x, y, named, points={A: sweep.first})
    earlier = sweep.kept.document.plane if sweep.kept.document else None
    if earlier is not None and dict(earlier.basis) == basis:
        found.take_over(earlier)
    elif earlier is not None and not force:
        differs = [
            name for name in dict.fromkeys((*basis, *earlier.basis)) if basis.get(name) != earlier.basis.get(name)
        ]
        raise UsageError(
            f"{sweep.kept.path} is of another plane: it differs in {', '.join(differs)}",
            remedy="give the options of that run, name another file, or replace it with --force",
        )
    _measure(found, plane, permutation, progress, keep)
    return found.record()


def _measure(found: _Measured, plane: Plane, permutation: Permutation, progress: Progress, keep: Keep) -> None:
    """Measure what is not known yet: first the points that have a name."""
    sweep, pair = found.sweep, found.sweep.pair
    a, b = held(pair.a, pair), held(pair.b, pair)
    moved = moved_once(permutation, pair, b)

    def scores(place: str, at: tuple[float, float], *, repaired: bool) -> Scores:
        state: Mapping[str, Tensor] = InPlane(pair.layout, a, b, moved, plane.shares(*at))
        scorer = sweep.scorer
        if repaired and scorer.repairer:
            state = scorer.repairer.between(state, (), "bn")
        return score_or_nan(scorer, state, found.failures, place)

    keep(found.record)
    total = len(found.x) * len(found.y) + len(found.named)
    with progress.phase("plane", total, "points") as advance:
        advance(total - found.record().missing)
        for name, at in found.named.items():
            if name not in found.points:
                found.points[name] = scores(name, at, repaired=name in (NAIVE_MIDDLE, ALIGNED_MIDDLE))
                keep(found.record)
                advance(1)
        for (j, i), at in _cells(found):
            if (j, i) not in found.cells:
                found.cells[j, i] = scores(f"x = {at[0]:g}, y = {at[1]:g}", at, repaired=True)
                keep(found.record)
                advance(1)
    unknown = sum(not math.isfinite(each.loss) for each in found.cells.values()) - len(found.failures)
    if unknown > 0:
        progress.warn(
            f"the loss is not finite at {unknown} points of the plane: outside of the triangle weights are "
            "extrapolated, and variances may become negative"
        )


def _cells(found: _Measured) -> Iterator[tuple[tuple[int, int], tuple[float, float]]]:
    """Row, column and coordinates of every cell, row by row."""
    for j, y in enumerate(found.y):
        for i, x in enumerate(found.x):
            yield (j, i), (x, y)
