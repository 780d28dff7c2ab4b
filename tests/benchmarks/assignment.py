"""Times the assignment against scipy, side by side in one process.

    python -m tests.benchmarks.assignment --sizes 512,1024,2048 --json out.json

Both solvers get the same float32 matrix in turn, once a round, and the least time of each counts; ours includes its
checks and its certificate. Both use one thread, whose processor time is taken: on a quiet machine that is the time on
the wall, and on a shared one it still gives the ratio.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from rebasin_cli.matching.assignment.solve import solve_assignment
from rebasin_cli.matching.resources import has_fast_solver
from tests.benchmarks.families import FAMILIES, make_similarity

TYPICAL = ("gaussian", "weak-signal", "very-weak-signal", "low-rank", "spectrum", "trained-like")
"""What matching meets; the geometric mean is over these."""

GOALS = {2048: 10.0, 4096: 20.0, 8192: 40.0}
LARGE = 2048
"""Above this, one round: scipy takes seconds to minutes."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One matrix, both solvers; seconds of one thread. ``excess`` is our value minus scipy's, as a share of scipy's."""

    family: str
    n: int
    scipy: float
    ours: float
    ratio: float
    excess: float
    gap: float | None
    solver: str


def time_both(family: str, n: int, rounds: int, seed: int) -> Timing:
    matrix = make_similarity(family, n, seed)
    ours, scipy = [], []
    for _ in range(rounds):
        start = time.thread_time()
        found = solve_assignment(matrix)
        ours.append(time.thread_time() - start)
        start = time.thread_time()
        rows, columns = linear_sum_assignment(matrix, maximize=True)
        scipy.append(time.thread_time() - start)
    reference = float(matrix[rows, columns].sum(dtype=np.float64))
    excess = (found.value - reference) / max(abs(reference), 1e-30)
    return Timing(family, n, min(scipy), min(ours), min(scipy) / min(ours), excess, found.gap, found.solver)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _summarise(timings: Sequence[Timing]) -> dict[int, float]:
    means = {}
    for n in sorted({t.n for t in timings}):
        ratios = [t.ratio for t in timings if t.n == n and t.family in TYPICAL]
        if ratios:
            means[n] = geometric_mean(ratios)
            goal = f", goal {GOALS[n]:g}" if n in GOALS else ""
            print(f"n = {n}: geometric mean of {len(ratios)} typical families {means[n]:.1f}{goal}")
    return means


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", default="512,1024,2048", help="comma-separated; 4096 and up take minutes")
    parser.add_argument("--families", default="all", help=f"all, typical, or some of {','.join(FAMILIES)}")
    parser.add_argument("--rounds", type=int, help=f"default 3, and 1 above n = {LARGE}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    groups = {"all": tuple(FAMILIES), "typical": TYPICAL}
    families = groups.get(options.families) or tuple(options.families.split(","))
    if unknown := set(families) - set(FAMILIES):
        parser.error(f"no such family: {', '.join(sorted(unknown))}")
    if not has_fast_solver():
        parser.error("the compiled solver is not built")
    print(f"{'family':18}{'n':>6}{'scipy ms':>12}{'ours ms':>10}{'ratio':>8}{'excess':>10}{'gap':>10}  solver")
    timings = []
    for n in map(int, options.sizes.split(",")):
        for family in families:
            t = time_both(family, n, options.rounds or (3 if n <= LARGE else 1), options.seed)
            timings.append(t)
            gap = "" if t.gap is None else f"{t.gap:.1e}"
            figures = f"{1e3 * t.scipy:12.1f}{1e3 * t.ours:10.1f}{t.ratio:8.1f}{t.excess:10.1e}{gap:>10}"
            print(f"{family:18}{n:6}{figures}  {t.solver}", flush=True)
    means = _summarise(timings)
    if options.json:
        document = {"geometric_mean": means, "timings": [asdict(t) for t in timings]}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
