"""What signs and scales are worth on trained networks: barrier and time of a match by `--symmetry`.

    python -m tests.benchmarks.symmetries --networks digits-mlp-128,fashion-mlp-128 --pairs 6
    python -m tests.benchmarks.symmetries --files A.safetensors B.safetensors … --data images.npz --points 3
    python -m tests.benchmarks.symmetries --networks digits-mlp-128,fashion-mlp-128 --merge 3

The networks are those of `tests.benchmarks.trained`, or files of one architecture, such as `make paper` leaves.
Barriers are in nats above the line between the ends, on test
data; of networks with BatchNorm every point between the ends has its statistics recomputed first. `ratio` is that of
the barrier to the one by permutations, and of the processor seconds, side by side: the median of the pairs, and the
worst of them. Of transformers with signs, `tests.benchmarks.signs` tells.

Of six pairs of digits-mlp-128 barriers with scales are 0.965 of those by permutations, the worst 0.990; matched in
balance 0.873, the worst 0.984. On perceptrons on Fashion-MNIST (0.987, the worst 1.035; in balance 0.941 and 1.370)
and small VGGs without norms (0.998, the worst 1.036; in balance 1.081 and 1.476) matching in balance is a gamble, so
that `align` matches the networks as they are. Scales lower a barrier by too little to be the default.

Of three perceptrons at once (--merge 3, ten triples of each) the loss of the mean above the models' own is 0.97 of that
by permutations on the digits (the worst 1.01) and 0.92 on Fashion-MNIST (0.97) if they are matched as they are, and
0.79 (0.97) and 0.83 (0.99) in balance, whose matches come 1.8 to 6.8 per cent nearer there. So `merge` matches the
balanced forms, and does not choose as `align` does, which would match all twenty as they are.

Of ResNets of width 16 on Fashion-MNIST at 14 × 14 (the recipes of `python -m tests.paper.defaults --quick`, seeds 0 to
3, so six pairs each; half of a thousand images to judge by and half for the statistics; --points 3) the loss half-way
is above the line, of that by permutations,

                          as they are    a dim's factor   without it     in balance     permutations,
                                         alone                                          random order
    ResNet8, BatchNorm    0.97 (≤ 1.07)  0.97 (≤ 1.07)    1.00 (≤ 1.00)  0.78 (≤ 1.47)  1.71 (≤ 1.92)
    ResNet20, BatchNorm   0.72 (≤ 1.14)  0.72 (≤ 1.14)    1.00 (≤ 1.01)  0.68 (≤ 1.08)
    ResNet8, LayerNorm    0.99 (≤ 1.14)  1.00 (≤ 1.14)    1.00 (≤ 1.00)  1.12 (≤ 3.04)  0.80 (≤ 2.62)
    ResNet20, LayerNorm   0.76 (≤ 0.89)  0.76 (≤ 0.89)    1.00 (≤ 1.02)  0.87 (≤ 1.80)

All that scales bring is a factor that a dim's units have in common, 1.32 to 1.37 with a deviation of 0.02 in most
dims: gains (written) resemble each other in any two networks and what reads them does not, and s⁴ − s³ = 1 at 1.38. It
brings the middle nearer to A's convolutions, and the highest loss to a larger λ: by --points 11 it is 0.92 (≤ 1.14) on
the ResNet20s with BatchNorm, 0.86 (≤ 1.08) in balance, and 0.97 (≤ 1.46) by permutations in random order. So a fifth
less than permutations and never worse is reached by no scales. What is worst in balance is chance: the descent of
permutations in another order is as far off. Forms half-way to balance, rows of length 1, A or B alone in balance, and
permutations and scales in turn until both rest do no better: of fifteen pairs of perceptrons 0.89, 1.05, 1.02 (B), 0.99
(A) and 0.91 in the median, the worst 1.8 to 4.0. Nor do permutations that are found on filters of length 1 (1.00 of 36
pairs, the worst 1.72), or in balance without that factor (0.97, the worst 2.74).
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file
from torch import Tensor

from rebasin_cli.evaluation.data import Dataset, load_data
from rebasin_cli.evaluation.evaluate import evaluate
from rebasin_cli.evaluation.networks.registry import build_network
from rebasin_cli.matching.problem import Problem
from rebasin_cli.matching.scales import balance, balanced, with_scales
from rebasin_cli.merging.models import Mean, Models
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.match_models import match_models
from rebasin_cli.pipeline.method_choice import match_choice
from rebasin_cli.pipeline.methods import Running, match_by_search, match_states
from rebasin_cli.spec import Layout, Request, bind, detect
from tests.benchmarks.optima import curve_of
from tests.benchmarks.trained import RECIPES, trained

State = Mapping[str, Tensor]
SYMMETRIES = ("permutations", "signs", "scales", "all")
RANDOM = {"start": "identity", "order": "random"}
"""The paper's own descent: what chance does to a match by the same objective."""


@dataclass(frozen=True, slots=True)
class Row:
    """One pair by one symmetry: the barrier in nats, the seconds of the match."""

    symmetry: str
    barrier: float
    seconds: float


def matched(layout: Layout, a: State, b: State, *, in_balance: bool = False, **given: str) -> Permutation:
    """As `align` matches with these options; `in_balance`: on the balanced forms, however near they come."""
    quiet = Running("cpu", lambda: None, lambda *_: None)
    if not in_balance:
        return match_states(layout, a, b, match_choice(given=given), quiet).permutation
    one, two = (balanced(layout, state, balance(layout, state)) for state in (a, b))
    found = match_by_search(Problem(layout.without_scales(), one, two), match_choice(), quiet)
    return with_scales(layout, a, b, found.permutation)


def parted(found: Permutation) -> tuple[Permutation, Permutation]:
    """A match with the factor alone that all scales of a dim have in common, and without it."""
    factors = {dim: scale.log().mean(-1, keepdim=True).exp().expand_as(scale) for dim, scale in found.scales.items()}
    rest = {dim: scale / factors[dim] for dim, scale in found.scales.items()}
    return replace(found, scales={dim: factor.clone() for dim, factor in factors.items()}), replace(found, scales=rest)


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
    runs["permutations, random order"] = partial(matched, layouts["permutations"], **RANDOM)
    if has["scales"]:
        runs["scales, a dim's factor alone"] = lambda a, b: parted(matched(layouts["scales"], a, b))[0]
        runs["scales, without that factor"] = lambda a, b: parted(matched(layouts["scales"], a, b))[1]
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


def merges(name: str, states: Sequence[State], test: Dataset, size: int, most: int) -> None:
    """Print the loss of the mean of so many networks above their own, of that by permutations."""
    shapes = {key: tuple(tensor.shape) for key, tensor in states[0].items()}
    detected = detect(shapes)
    network = build_network(detected, states[0], {})
    layout = bind(detected.spec, shapes, Request(scales=True))
    ratios: dict[str, list[float]] = {"as they are": [], "in balance": []}
    for group in itertools.islice(itertools.combinations(states, size), most):
        plain, in_balance = (
            match_models(Models.of(bound, group), "cycle-consistent", match_choice(), Progress()).permutations
            for bound in (layout.without_scales(), layout)
        )
        first, *others = group
        scaled = [with_scales(layout, first, state, p) for state, p in zip(others, plain[1:], strict=True)]
        ways = {"": plain, "as they are": (plain[0], *scaled), "in balance": in_balance}
        own = sum(evaluate(network, state, test).loss for state in group) / size
        above = {
            way: evaluate(network, dict(Mean(Models.of(layout, group), permutations, range(size))), test).loss - own
            for way, permutations in ways.items()
        }
        for way, ratio in ratios.items():
            ratio.append(above[way] / above[""])
    for way, ratio in ratios.items():
        print(f"{name:22}{size} models, {way:20}ratio {median(ratio):.3f}, worst {max(ratio):.3f}", flush=True)


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
    parser.add_argument("--merge", type=int, help="so many networks at once, at most ten times, in the place of pairs")
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
        if given.merge:
            merges(name, *trained(name), given.merge, 10)
            continue
        describe(name, measure(*trained(name), given.pairs, given.points))


if __name__ == "__main__":
    main()
