"""How often a planted permutation is found: the experiment of samuela/git-re-basin#8, and harder ones.

    python -m tests.benchmarks.recovery --trials 100
    python -m tests.benchmarks.recovery --trials 40 --network resnet20 --noise 2,3,3.5,4 --ways 0,3,4

The experiment: two blocks of two layers with identity skips, 30 inputs, 50 units, Gaussian weights and biases. The
stream is permuted from end to end, so that nothing but the biases tells where its units belong. The published loop
recovers 10 to 14 of 100. `--network` takes a case of `tests.benchmarks` in its place, with Gaussian weights as well.
`--noise` adds noise to B, as a share of the weights' own size; then what counts is an objective no lower than that of
the planted permutation.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rebasin_cli.matching.frank_wolfe import frank_wolfe_attempts
from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.options import WeightsOptions
from rebasin_cli.matching.portfolio import Attempt, best_of, descents
from rebasin_cli.matching.problem import Problem
from rebasin_cli.matching.sinkhorn import sinkhorn_attempts
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout, bind, load_spec
from tests.benchmarks.cases import CASES, Shapes
from tests.benchmarks.paper import weight_matching

SPEC = """
tensors:
  block.{i}.up: unit.{i} stream
  block.{i}.up_bias: unit.{i}
  block.{i}.down: stream unit.{i}
  block.{i}.down_bias: stream
"""
STREAM, UNITS, BLOCKS = 30, 50, 2
SHAPES: Shapes = {
    f"block.{i}.{name}": shape
    for i in range(BLOCKS)
    for name, shape in (
        ("up", (UNITS, STREAM)), ("up_bias", (UNITS,)), ("down", (STREAM, UNITS)), ("down_bias", (STREAM,)),
    )
}  # fmt: skip
State = Mapping[str, Tensor]
Ways = Callable[[Layout, State, State, int], Iterable[Attempt]]

WAYS: Mapping[str, Ways] = {
    "1 start, identity, random order": lambda layout, a, b, seed: descents(
        Problem(layout, a, b), 1, seed, WeightsOptions("identity", "random")
    ),
    "1 start, anchored": lambda layout, a, b, seed: descents(Problem(layout, a, b), 1, seed),
    "default, with Frank-Wolfe": lambda layout, a, b, seed: [
        *descents(Problem(layout, a, b), 1, seed), *frank_wolfe_attempts(Problem(layout, a, b), ("barycentre",)),
    ],
    "5 starts": lambda layout, a, b, seed: descents(Problem(layout, a, b), 5, seed),
    "20 starts": lambda layout, a, b, seed: descents(Problem(layout, a, b), 20, seed),
    "Frank-Wolfe, barycentre": lambda layout, a, b, seed: frank_wolfe_attempts(Problem(layout, a, b))[:1],
    "Frank-Wolfe, identity": lambda layout, a, b, seed: frank_wolfe_attempts(Problem(layout, a, b))[1:],
    "Sinkhorn": lambda layout, a, b, seed: sinkhorn_attempts(Problem(layout, a, b)),
}  # fmt: skip


ORIGINAL: Mapping[str, int] = {
    "original loop, 1 start": 1, "original loop, 5 starts": 5, "original loop, 20 starts": 20,
}  # fmt: skip
ALL = (*ORIGINAL, *WAYS)


@dataclass(frozen=True, slots=True)
class Recovery:
    """One way: how many of the trials it solved, and processor seconds of one thread for each."""

    way: str
    noise: float
    recovered: int
    trials: int
    seconds: float


def layout_of(network: str, folder: Path) -> tuple[Layout, Shapes]:
    """The bound spec, and what it is bound to."""
    if network in CASES:
        return CASES[network].layout(folder), CASES[network].shapes()
    path = folder / "residual.yaml"
    path.write_text(SPEC)
    return bind(load_spec(path), SHAPES), SHAPES


def planted(layout: Layout, shapes: Shapes, seed: int, noise: float) -> tuple[State, State, Permutation]:
    """A, B and the permutation that brings B onto A."""
    generator = torch.Generator().manual_seed(seed)
    a, more = ({key: torch.randn(s, generator=generator) for key, s in shapes.items()} for _ in range(2))
    hidden = Permutation.random(layout, seed)
    moved = permuted(hidden, layout, a)
    return a, {key: moved[key] + noise * more[key] for key in a}, hidden.inverse(layout)


def original_loop(layout: Layout, a: State, b: State, starts: int, seed: int) -> float:
    """What Algorithm 1 as published reaches; the best of some random orders of its steps."""
    found = (weight_matching(layout, a, b, seed=1000 * seed + start).permutation for start in range(starts))
    return max(inner_product(layout, a, b, Permutation(permutation)) for permutation in found)


def recover(layout: Layout, shapes: Shapes, way: str, trials: int, noise: float) -> Recovery:
    """Run one way on every trial."""
    recovered, seconds = 0, 0.0
    for seed in range(trials):
        a, b, truth = planted(layout, shapes, seed, noise)
        began = time.process_time()
        if way in ORIGINAL:
            reached = original_loop(layout, a, b, ORIGINAL[way], seed)
        else:
            reached = best_of(WAYS[way](layout, a, b, seed)).objective[-1]
        seconds += time.process_time() - began
        target = inner_product(layout, a, b, truth)
        recovered += reached >= target - 1e-6 * abs(target)
    return Recovery(way, noise, recovered, trials, seconds / trials)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--network", default="small", choices=("small", *CASES))
    parser.add_argument("--noise", default="0", help="comma-separated")
    parser.add_argument("--ways", default="all", help="comma-separated numbers, from 0")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ways = ALL if options.ways == "all" else [ALL[int(i)] for i in options.ways.split(",")]
    print(f"{'way':34}{'noise':>7}{'recovered':>14}{'ms each':>10}")
    with tempfile.TemporaryDirectory() as folder:
        layout, shapes = layout_of(options.network, Path(folder))
        for noise in map(float, options.noise.split(",")):
            for way in ways:
                r = recover(layout, shapes, way, options.trials, noise)
                print(f"{way:34}{noise:7.2f}{r.recovered:7} of {r.trials:<4}{1e3 * r.seconds:9.1f}", flush=True)


if __name__ == "__main__":
    main()
