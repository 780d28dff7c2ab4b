"""How often a planted permutation is found in a small residual network with a dim on both sides of `x + W x`.

    python -m tests.benchmarks.recovery --trials 100

The experiment of samuela/git-re-basin#8: 30 inputs, 50 units, two identity skips, random weights. The original loop
recovers 10 to 14 of 100 (51 as the best of 5 starts, 99 of 20). `--noise` adds noise to B, as a share of the weights'
own size; then what counts is an objective no lower than that of the planted permutation.
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

from rebasin_cli.matching import best_of, descents, frank_wolfe_attempts, inner_product
from rebasin_cli.matching.restarts import Attempt
from rebasin_cli.permutation import Permutation, permuted
from rebasin_cli.spec import Layout, bind, load_spec

SPEC = "tensors:\n  in: s _\n  skip.{i}: s s\n  out: _ s\n"
INPUTS, UNITS, OUTPUTS = 30, 50, 10
SHAPES = {"in": (UNITS, INPUTS), "skip.0": (UNITS, UNITS), "skip.1": (UNITS, UNITS), "out": (OUTPUTS, UNITS)}
State = Mapping[str, Tensor]
Ways = Callable[[Layout, State, State, int], Iterable[Attempt]]

WAYS: Mapping[str, Ways] = {
    "1 start, identity, random order": lambda layout, a, b, seed: descents(
        layout, a, b, count=1, seed=seed, start="identity", order="random"
    ),
    "1 start, anchored (default)": lambda layout, a, b, seed: descents(layout, a, b, count=1, seed=seed),
    "5 starts": lambda layout, a, b, seed: descents(layout, a, b, count=5, seed=seed),
    "20 starts": lambda layout, a, b, seed: descents(layout, a, b, count=20, seed=seed),
    "Frank-Wolfe, barycentre": lambda layout, a, b, seed: frank_wolfe_attempts(layout, a, b)[:1],
    "Frank-Wolfe, identity": lambda layout, a, b, seed: frank_wolfe_attempts(layout, a, b)[1:],
}


@dataclass(frozen=True, slots=True)
class Recovery:
    """One way: how many of the trials it solved, and processor seconds of one thread for each."""

    way: str
    noise: float
    recovered: int
    trials: int
    seconds: float


def layout_of(folder: Path) -> Layout:
    """The bound spec."""
    path = folder / "skips.yaml"
    path.write_text(SPEC)
    return bind(load_spec(path), SHAPES)


def planted(layout: Layout, seed: int, noise: float) -> tuple[dict[str, Tensor], dict[str, Tensor], Permutation]:
    """A, B and the permutation that brings B onto A."""
    generator = torch.Generator().manual_seed(seed)
    a = {key: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for key, shape in SHAPES.items()}
    hidden = Permutation.random(layout, seed)
    b = {
        key: tensor + noise * torch.randn(tensor.shape, generator=generator) / tensor.shape[-1] ** 0.5
        for key, tensor in permuted(hidden, layout, a).items()
    }
    return a, b, hidden.inverse(layout)


def recover(layout: Layout, way: str, trials: int, noise: float) -> Recovery:
    """Run one way on every trial."""
    recovered, seconds = 0, 0.0
    for seed in range(trials):
        a, b, truth = planted(layout, seed, noise)
        began = time.process_time()
        result = best_of(WAYS[way](layout, a, b, seed))
        seconds += time.process_time() - began
        target = inner_product(layout, a, b, truth)
        recovered += result.objective[-1] >= target - 1e-6 * abs(target)
    return Recovery(way, noise, recovered, trials, seconds / trials)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--noise", default="0,0.5,1,1.5", help="comma-separated")
    parser.add_argument("--ways", default="all", help="comma-separated numbers, from 0")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ways = list(WAYS) if options.ways == "all" else [list(WAYS)[int(i)] for i in options.ways.split(",")]
    print(f"{'way':34}{'noise':>7}{'recovered':>14}{'ms each':>10}")
    with tempfile.TemporaryDirectory() as folder:
        layout = layout_of(Path(folder))
        for noise in map(float, options.noise.split(",")):
            for way in ways:
                r = recover(layout, way, options.trials, noise)
                print(f"{way:34}{noise:7.2f}{r.recovered:7} of {r.trials:<4}{1e3 * r.seconds:9.1f}", flush=True)


if __name__ == "__main__":
    main()
