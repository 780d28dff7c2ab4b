"""What a better optimum is worth: objective, barrier and time by method, on pairs of trained networks.

    python -m tests.benchmarks.optima --networks digits-mlp-128,fashion-resnet8-16 --pairs 6 --json bench/optima.json

The networks are trained on the first run (`tests/benchmarks/trained.py`); of n of them the first pairs are taken. The
objective is its gain over the identity's, as a share of the gain of the anchored descent in forward order; time is that
of the processor, one thread; barriers are above the line between the ends, on test data. Of networks with BatchNorm
every point between the ends has its statistics recomputed first. A line is the mean over the pairs, and what is lower
or higher than the anchored descent's is counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.evaluation.barrier import barrier_above_line
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.evaluate import evaluate, runner
from rebasin_cli.evaluation.networks.module_network import ModuleNetwork
from rebasin_cli.matching.frank_wolfe import frank_wolfe_attempts
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.portfolio import best_of, descents
from rebasin_cli.matching.problem import MatchResult, Problem, Resources
from rebasin_cli.matching.sinkhorn import sinkhorn_attempts
from rebasin_cli.merging.channel_statistics import reset_statistics
from rebasin_cli.merging.interpolation import interpolated
from rebasin_cli.merging.options import lambda_grid
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.spec import Layout, detect
from tests.benchmarks.trained import RECIPES, network_of, trained

State = Mapping[str, Tensor]
Run = Callable[[Layout, State, State], MatchResult]
EXAMPLES, FITTED = 2000, 1000


def _descents(count: int, seed: int = 0, **more: Any) -> Run:
    return lambda layout, a, b: best_of(descents(Problem(layout, a, b), count, seed, WeightsOptions(**more)))


def _frank_wolfe(which: int) -> Run:
    return lambda layout, a, b: frank_wolfe_attempts(Problem(layout, a, b))[which].run(Resources())


def _mix(count: int, frank_wolfes: int = 2, sinkhorns: int = 0) -> Run:
    """Some descents with what moves all dims together."""

    def run(layout: Layout, a: State, b: State) -> MatchResult:
        together = [
            *frank_wolfe_attempts(Problem(layout, a, b))[:frank_wolfes],
            *sinkhorn_attempts(Problem(layout, a, b))[:sinkhorns],
        ]
        return best_of([*descents(Problem(layout, a, b), count), *together])

    return run


ANCHORED = "anchored, forward order"
RUNS: Mapping[str, Run] = {
    ANCHORED: _descents(1),
    **{f"anchored, random order, seed {s}": _descents(1, order="random", seed=s) for s in range(2)},
    "identity, forward order": _descents(1, start="identity"),
    **{f"identity, random order, seed {s}": _descents(1, start="identity", order="random", seed=s) for s in range(3)},
    "--restarts 2": _descents(2),
    "--restarts 5": _descents(5),
    "--restarts 20": _descents(20),
    "Frank-Wolfe, barycentre": _frank_wolfe(0),
    "Frank-Wolfe, identity": _frank_wolfe(1),
    "Sinkhorn, distance": lambda layout, a, b: sinkhorn_attempts(Problem(layout, a, b))[0].run(Resources()),
    "--quality default": _mix(1, 1),
    "--method frank-wolfe": _mix(1),
    "--method sinkhorn": _mix(1, 0, 1),
    "--quality high": _mix(5, 2, 1),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One pair, one method. `barrier` in nats; `seconds` of one thread."""

    network: str
    pair: tuple[int, int]
    method: str
    objective: float
    barrier: float
    seconds: float


def curve_of(network: ModuleNetwork, layout: Layout, a: State, b: State, test: Dataset, points: int) -> float:
    """The barrier between two states, with BatchNorm's statistics recomputed between the ends."""
    normalised = any(key.endswith("running_var") for key in a)
    cut = min(EXAMPLES, len(test.inputs) // 2) if normalised else EXAMPLES
    judged, fitted = (
        Dataset(test.inputs[rows], test.targets[rows], test.source, test.split)
        for rows in (slice(cut), slice(cut, cut + FITTED))
    )

    def state(lam: float) -> State:
        between = interpolated(layout, a, b, lam)
        if not normalised or lam in (0.0, 1.0):
            return between
        params = network.load(between, "cpu")
        changed = reset_statistics(params, runner(network, fitted, 500)).changed
        return {key: changed.get(key.removeprefix(network.prefix), between[key]) for key in a}

    grid = lambda_grid(points)
    return barrier_above_line(grid, [evaluate(network, state(lam), judged).loss for lam in grid])


def measure(name: str, pairs: int, points: int, runs: Mapping[str, Run]) -> list[Row]:
    """Every method on some pairs, beside each pair as it is."""
    states, test = trained(name)
    layout = detect({key: tuple(tensor.shape) for key, tensor in states[0].items()})
    network = network_of(name)
    rows = []
    for i, j in itertools.islice(itertools.combinations(range(len(states)), 2), pairs):
        a, b = states[i], states[j]
        barrier = partial(curve_of, network, layout, a, test=test, points=points)
        counted = [key for key, bound in layout.tensors.items() if bound.section == "tensors"]
        naive = sum(float((a[key] * b[key]).sum()) for key in counted)
        rows.append(Row(name, (i, j), "naive", naive, barrier(b), 0.0))
        for method, run in runs.items():
            began = time.process_time()
            result = run(layout, a, b)
            spent = time.process_time() - began
            moved = permuted(result.permutation, layout, b)
            rows.append(Row(name, (i, j), method, result.objective[-1], barrier({key: moved[key] for key in b}), spent))
    return rows


def describe(rows: Sequence[Row], runs: Mapping[str, Run]) -> None:
    """Print the means over the pairs of one network."""
    by = {(row.pair, row.method): row for row in rows}
    pairs = list(dict.fromkeys(row.pair for row in rows))
    for method in ("naive", *runs):
        mine = [by[pair, method] for pair in pairs]
        base = [by[pair, ANCHORED] for pair in pairs]
        before = [by[pair, "naive"].objective for pair in pairs]
        gains = [
            (row.objective - naive) / (best.objective - naive)
            for row, best, naive in zip(mine, base, before, strict=True)
        ]
        lower = sum(row.barrier < other.barrier for row, other in zip(mine, base, strict=True))
        higher = sum(row.objective > other.objective for row, other in zip(mine, base, strict=True))
        count = len(pairs)
        print(
            f"{rows[0].network:24}{method:34}{100 * sum(gains) / count:9.2f} %{higher:4}"
            f"{sum(row.barrier for row in mine) / count:10.4f}{lower:4}"
            f"{sum(row.seconds for row in mine) / count:9.3f}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", default="all", help=f"some of {','.join(RECIPES)}")
    parser.add_argument("--methods", default="all", help="comma-separated numbers, from 0, which is always among them")
    parser.add_argument("--pairs", type=int, default=1, help="of each network, at most so many")
    parser.add_argument("--points", type=int, default=11, help="of each curve")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    names = tuple(RECIPES) if options.networks == "all" else tuple(options.networks.split(","))
    if unknown := set(names) - set(RECIPES):
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    chosen = range(len(RUNS)) if options.methods == "all" else sorted({0, *map(int, options.methods.split(","))})
    runs = {list(RUNS)[at]: list(RUNS.values())[at] for at in chosen}
    rows: list[Row] = []
    print(f"{'network':24}{'method':34}{'gain':>11}{'  >':4}{'barrier':>10}{'  <':4}{'seconds':>9}")
    for name in names:
        found = measure(name, options.pairs, options.points, runs)
        describe(found, runs)
        rows += found
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
