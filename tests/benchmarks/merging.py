"""Networks trained from different seeds, merged: the loss of each, of their plain mean, and by algorithm.

    python -m tests.benchmarks.merging --networks digits-mlp-128,fashion-mlp-128

The paper's figure for five MLPs on MNIST is 0.111 to 0.153 each and 0.073 merged, of networks that were trained until
they were far too sure of themselves: what the mean gains is calibration. `fashion-mlp-512-long` shows the same, in the
loss and not in the accuracy; networks that stop where their test loss is lowest, and those on the few digits, have
nothing to gain.

Networks are trained on the first run (`tests/benchmarks/trained.py`); time is that of the processor, one thread.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence

import torch

from rebasin_cli.evaluation.evaluate import evaluate
from rebasin_cli.matching.frank_wolfe import frank_wolfe_attempts
from rebasin_cli.matching.portfolio import best_of, descents
from rebasin_cli.matching.problem import MatchResult, Problem, Resources
from rebasin_cli.merging.many import ALGORITHMS, Match, match_many
from rebasin_cli.merging.models import Mean, Models, State
from rebasin_cli.merging.options import ManyOptions
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout, detect
from tests.benchmarks.trained import RECIPES, network_of, trained

SEVERAL = tuple(name for name, recipe in RECIPES.items() if recipe.seeds >= 5)


def measure(name: str, algorithms: Sequence[str], matchings: Sequence[str]) -> None:
    """Print every line for one family of networks."""
    states, test = trained(name)
    layout = detect({key: tuple(tensor.shape) for key, tensor in states[0].items()})
    network = network_of(name)
    models = Models(layout, tuple(states), (1 / len(states),) * len(states))

    def show(what: str, state: State, figures: str = "") -> None:
        scores = evaluate(network, {key: state[key] for key in states[0]}, test)
        print(f"{name:22}{what:32}{scores.loss:8.4f}{100 * scores.accuracy:8.2f} %{figures}", flush=True)

    for number, state in enumerate(states):
        show(f"seed {number}", state)
    identity = (Permutation.identity(layout),) * len(states)
    show("plain mean", Mean(models, identity, range(len(states))))
    for algorithm, matching in itertools.product(algorithms, matchings):
        began = time.process_time()
        result = match_many(Models.of(layout, states), _matcher(matching), options=ManyOptions(algorithm=algorithm))  # type: ignore[arg-type]
        spent = time.process_time() - began
        merged = Mean(models, result.permutations, range(len(states)))
        closed = "cycles close" if cycles_close(layout, result.permutations) else "CYCLES DO NOT CLOSE"
        show(f"{algorithm}, {matching}", merged, f"{result.objective[-1]:11.3f}{spent:8.2f} s  {closed}")


def cycles_close(layout: Layout, permutations: Sequence[Permutation]) -> bool:
    """Whether the way around every three models leads each unit back to where it was."""
    identity = Permutation.identity(layout)
    for cycle in itertools.permutations(range(len(permutations)), 3):
        way = identity
        for i, j in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
            onto = permutations[j].compose(permutations[i].inverse(layout), layout)  # j's units in i's order
            way = onto.compose(way, layout)
        if not way.equals(identity):
            return False
    return True


def _matcher(matching: str) -> Match:
    def match(problem: Problem, resources: Resources) -> MatchResult:
        more = frank_wolfe_attempts(problem) if matching == "frank-wolfe" else []
        return best_of([*descents(problem, 1), *more], resources)

    return match


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", default=",".join(SEVERAL), help="comma-separated")
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS), help="comma-separated")
    parser.add_argument("--matching", default="descent,frank-wolfe", help="how pairs are matched, comma-separated")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"{'networks':22}{'what':32}{'loss':>8}{'accuracy':>10}{'objective':>11}{'time':>10}")
    for name in options.networks.split(","):
        measure(name, options.algorithms.split(","), options.matching.split(","))


if __name__ == "__main__":
    main()
