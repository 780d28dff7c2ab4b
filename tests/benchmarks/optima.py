"""What a better optimum is worth: objective, barrier and time by method, on pairs of trained networks.

    python -m tests.benchmarks.optima --networks digits-mlp-128,fashion-mlp-256 --json bench/optima.json

The pairs are trained on the first run (`tests/benchmarks/trained.py`). Time is that of the processor, one thread;
barriers are above the line between the ends, on test data, over 11 points.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from rebasin_cli.evaluation import Dataset, barrier_above_line, build_network, sweep
from rebasin_cli.matching import MatchResult, best_of, descents, frank_wolfe_attempts
from rebasin_cli.merging import interpolated, lambda_grid
from rebasin_cli.permutation import permuted
from rebasin_cli.spec import Layout, detect
from tests.benchmarks.trained import RECIPES, trained

State = Mapping[str, Tensor]
Run = Callable[[Layout, State, State], MatchResult]
EXAMPLES = 2000


def _descents(count: int, **more: object) -> Run:
    return lambda layout, a, b: best_of(descents(layout, a, b, count=count, **more))  # type: ignore[arg-type]


def _frank_wolfe(which: int) -> Run:
    return lambda layout, a, b: frank_wolfe_attempts(layout, a, b)[which].run(None, None)


def _mix(count: int) -> Run:
    """As `--method frank-wolfe` and `--quality high` do."""

    def run(layout: Layout, a: State, b: State) -> MatchResult:
        first, *more = descents(layout, a, b, count=count)
        return best_of([first, *frank_wolfe_attempts(layout, a, b), *more])

    return run


RUNS: Mapping[str, Run] = {
    "identity, random order": _descents(1, start="identity", order="random"),
    "identity, forward order": _descents(1, start="identity"),
    "default": _descents(1),
    "--restarts 5": _descents(5),
    "--restarts 20": _descents(20),
    "Frank-Wolfe, barycentre": _frank_wolfe(0),
    "Frank-Wolfe, identity": _frank_wolfe(1),
    "--method frank-wolfe": _mix(1),
    "--quality high": _mix(5),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One pair, one method. `barrier` in nats; `seconds` of one thread."""

    network: str
    method: str
    objective: float
    barrier: float
    seconds: float


def measure(name: str, points: int = 11) -> list[Row]:
    """Every method on one pair, beside the pair as it is."""
    states, test = trained(name)
    a, b = states[:2]
    layout = detect({key: tuple(tensor.shape) for key, tensor in a.items()})
    judged = Dataset(test.inputs[:EXAMPLES], test.targets[:EXAMPLES], test.source, test.split)
    network = build_network(layout, a, {})

    def barrier(other: State) -> float:
        curve = sweep(network, lambda lam: interpolated(layout, a, other, lam), lambda_grid(points), judged)
        return barrier_above_line(curve.lam, curve.loss)

    rows = [Row(name, "naive", sum(float((a[key] * b[key]).sum()) for key in a), barrier(b), 0.0)]
    for method, run in RUNS.items():
        began = time.process_time()
        result = run(layout, a, b)
        spent = time.process_time() - began
        moved = permuted(result.permutation, layout, b)
        rows.append(Row(name, method, result.objective[-1], barrier({key: moved[key] for key in b}), spent))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", default="all", help=f"some of {','.join(RECIPES)}")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    names = tuple(RECIPES) if options.networks == "all" else tuple(options.networks.split(","))
    if unknown := set(names) - set(RECIPES):
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    rows: list[Row] = []
    print(f"{'network':20}{'method':26}{'objective':>12}{'barrier':>10}{'seconds':>9}")
    for name in names:
        for row in measure(name):
            rows.append(row)
            figures = f"{row.objective:12.2f}{row.barrier:10.4f}{row.seconds:9.2f}"
            print(f"{row.network:20}{row.method:26}{figures}", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
