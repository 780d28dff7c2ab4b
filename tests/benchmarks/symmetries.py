"""What signs and scales are worth on trained networks: barrier and time of a match by `--symmetry`.

    python -m tests.benchmarks.symmetries --networks digits-mlp-128,fashion-mlp-128 --pairs 6
    python -m tests.benchmarks.symmetries --files A.safetensors B.safetensors … --data images.npz --points 3

The networks are those of `tests.benchmarks.trained`, or files of one architecture, such as `make paper` leaves.
Barriers are in nats above the line between the ends, on test
data; of networks with BatchNorm every point between the ends has its statistics recomputed first. `ratio` is that of
the barrier to the one by permutations, and of the processor seconds, side by side: the median of the pairs, and the
worst of them. Of transformers with signs, `tests.benchmarks.signs` tells.

Of six pairs of digits-mlp-128 barriers with scales are 0.965 of those by permutations, the worst 0.990; matched in
balance 0.873, the worst 0.984. On perceptrons on Fashion-MNIST (0.987, the worst 1.035; in balance 0.941 and 1.370)
and small VGGs without norms (0.998, the worst 1.036; in balance 1.081 and 1.476) matching in balance is a gamble, so
that `align` matches the networks as they are. Scales lower a barrier by too little to be the default.

Of ResNets of width 16 on Fashion-MNIST at 14 × 14 (those of `python -m tests.paper.defaults --quick`, six pairs each,
half of a thousand images to judge by and half for the statistics) barriers with scales are, of those by permutations,

                          matched as they are     matched in balance
    ResNet8, BatchNorm    0.95, the worst 1.13    0.82, the worst 1.05
    ResNet20, BatchNorm   0.77, the worst 0.94    0.63, the worst 1.03
    ResNet8, LayerNorm    0.94, the worst 1.01    0.92, the worst 1.90
    ResNet20, LayerNorm   0.79, the worst 1.22    0.73, the worst 2.02

so that a fifth less in the median and never worse is reached by neither. With BatchNorm matching in balance is the
better of the two (0.74 in the median of twelve pairs, for 0.83); with LayerNorm it is a gamble as well. Forms half-way
to balance, rows of length 1, A or B alone in balance, and permutations and scales in turn until both rest do no better:
of fifteen pairs of perceptrons 0.89, 1.05, 1.02 (B), 0.99 (A) and 0.91 in the median, the worst 1.8 to 4.0.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file
from torch import Tensor

from rebasin_cli.evaluation.data import Dataset, load_data
from rebasin_cli.evaluation.networks.registry import build_network
from rebasin_cli.matching.problem import Problem
from rebasin_cli.matching.scales import balance, balanced, with_scales
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline.method_choice import match_choice
from rebasin_cli.pipeline.methods import Running, match_by_search, match_states
from rebasin_cli.spec import Layout, Request, bind, detect
from tests.benchmarks.optima import curve_of
from tests.benchmarks.trained import RECIPES, trained

State = Mapping[str, Tensor]
SYMMETRIES = ("permutations", "signs", "scales", "all")


@dataclass(frozen=True, slots=True)
class Row:
    """One pair by one symmetry: the barrier in nats, the seconds of the match."""

    symmetry: str
    barrier: float
    seconds: float


def matched(layout: Layout, a: State, b: State, *, in_balance: bool = False) -> Permutation:
    """As `align` matches; `in_balance`: on the balanced forms, however near they come."""
    quiet = Running("cpu", lambda: None, lambda *_: None)
    if not in_balance:
        return match_states(layout, a, b, match_choice(), quiet).permutation
    one, two = (balanced(layout, state, balance(layout, state)) for state in (a, b))
    found = match_by_search(Problem(layout.without_scales(), one, two), match_choice(), quiet)
    return with_scales(layout, a, b, found.permutation)


def measure(states: Sequence[State], test: Dataset, pairs: int, points: int) -> list[list[Row]]:
    """The rows of each pair of networks of one architecture."""
    shapes = {key: tuple(tensor.shape) for key, tensor in states[0].items()}
    plain = detect(shapes)
    network = build_network(plain, states[0], {})
    layouts = {
        kind: bind(plain.spec, shapes, Request(signs=kind in ("signs", "all"), scales=kind in ("scales", "all")))
        for kind in SYMMETRIES
    }
    has = {"permutations": True, "signs": bool(layouts["signs"].signed()), "scales": bool(layouts["scales"].scaled())}
    has["all"] = has["signs"] and has["scales"]
    runs = {kind: partial(matched, layout) for kind, layout in layouts.items() if has[kind]}
    if layouts["scales"].scaled():
        runs["scales, matched in balance"] = partial(matched, layouts["scales"], in_balance=True)
    found = []
    for i, j in itertools.islice(itertools.combinations(range(len(states)), 2), pairs):
        a, b = states[i], states[j]
        barrier = partial(curve_of, network, plain, a, test=test, points=points)
        rows = [Row("naive", barrier(b), 0.0)]
        for kind, run in runs.items():
            began = time.process_time()
            permutation = run(a, b)
            spent = time.process_time() - began
            moved = permuted(permutation, layouts["all"], b)
            rows.append(Row(kind, barrier({key: moved[key] for key in b}), spent))
        found.append(rows)
    return found


def describe(name: str, pairs: Sequence[Sequence[Row]]) -> None:
    """Print a line for each symmetry."""
    for rows in zip(*pairs, strict=True):
        each_of = zip(rows, (pair[1] for pair in pairs), strict=True)
        ratios = [(row.barrier / plain.barrier, row.seconds / plain.seconds) for row, plain in each_of]
        barriers, times = zip(*ratios, strict=True)
        each = " ".join(f"{row.barrier:7.4f}" for row in rows)
        print(
            f"{name:22}{rows[0].symmetry:30}{each}   ratio {median(barriers):.3f}, worst {max(barriers):.3f}; "
            f"time {median(times):.1f}",
            flush=True,
        )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", default="digits-mlp-128,fashion-mlp-128,fashion-resnet8-16,fashion-resnet8-16-bn")
    parser.add_argument("--files", type=Path, nargs="+", help="checkpoints in the place of these networks")
    parser.add_argument("--data", type=Path, help="by which files are judged")
    parser.add_argument("--pairs", type=int, default=6, help="of each network, at most so many")
    parser.add_argument("--points", type=int, default=11, help="of each curve")
    given = parser.parse_args()
    names = given.networks.split(",")
    if unknown := set(names) - set(RECIPES):
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    if given.files:
        states = [load_file(path) for path in given.files]
        describe(given.files[0].stem, measure(states, load_data(given.data, "test"), given.pairs, given.points))
        return
    for name in names:
        describe(name, measure(*trained(name), given.pairs, given.points))


if __name__ == "__main__":
    main()
