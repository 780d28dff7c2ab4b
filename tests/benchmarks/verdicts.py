"""Cosines of trained networks in one order, and whether their mean is any good: what verdicts without data rest on.

    python -m tests.benchmarks.verdicts

Networks trained apart (`tests/benchmarks/trained.py`, two and four of each, by weight matching), and pairs that part
from one network after some of its training. The digits' MLPs take a minute in all; `--networks` names others.

Measured (one line each): digits-mlp-128 .46 and .41, digits-mlp-512 .31 and .27, fashion-mlp-128 .47 and .42,
fashion-mlp-256 .42: every merge worse than every model. Pairs that part after a quarter of an epoch or later: .98 and
more, every merge within .003 of its models. None was found between .47 and .98.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.evaluate import evaluate, evaluate_ensemble
from rebasin_cli.evaluation.networks.registry import build_network
from rebasin_cli.matching.portfolio import best_of, descents
from rebasin_cli.merging.many import match_many
from rebasin_cli.merging.models import Mean, Models, pairwise_distances
from rebasin_cli.spec import detect
from tests.benchmarks.trained import Mlp, trained
from tests.data.train_digits import load_split

PARTED = (4, 23, 46, 230)  # batches of 64 before two networks part; an epoch has 23


def show(name: str, states: Sequence[dict[str, Tensor]], test: Dataset) -> None:
    """Print the least cosine, the losses of models, ensemble and merge."""
    layout = detect({key: tuple(tensor.shape) for key, tensor in states[0].items()})
    network, models = build_network(layout, states[0], {}), Models.of(layout, states)
    result = match_many(models, lambda problem, resources: best_of(descents(problem, 1), resources))
    cosine = min(pair.cosine for pair in pairwise_distances(models, result.permutations).values())
    losses = [evaluate(network, state, test).loss for state in states]
    ensemble = evaluate_ensemble(network, states, models.weights, test).loss
    mean = Mean(models, result.permutations, range(len(states)))
    merged = evaluate(network, {key: mean[key] for key in states[0]}, test).loss
    print(
        f"{name:28}{len(states)} cosine {cosine:.3f}  models {min(losses):.4f}–{max(losses):.4f}  "
        f"ensemble {ensemble:.4f}  merge {merged:.4f}",
        flush=True,
    )


def parted(width: int, batches: int) -> tuple[list[dict[str, Tensor]], Dataset]:
    """Two MLPs on digits that are one for the first batches, then 30 epochs apart."""
    inputs, targets, test_inputs, test_targets = load_split()
    torch.manual_seed(0)
    network = Mlp(64, width, width, 10)

    def train(one: nn.Module, seed: int, most: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(one.parameters(), 1e-3)
        done = 0
        while done < most:
            for batch in torch.randperm(len(inputs), generator=generator).split(64):
                if done < most:
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(one(inputs[batch]), targets[batch]).backward()
                    optimizer.step()
                    done += 1
        return {key: tensor.detach() for key, tensor in one.state_dict().items()}

    train(network, 9, batches)
    states = [train(copy.deepcopy(network), seed, 690) for seed in (1, 2)]
    return states, Dataset(test_inputs, test_targets, "digits", "test")


def main() -> None:
    """Print every set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="digits-mlp-128,digits-mlp-512")
    for name in parser.parse_args().networks.split(","):
        states, test = trained(name)
        for count in (2, 4):
            show(name, states[:count], test)
    for width in (64, 256):
        for batches in PARTED:
            show(f"parted-mlp-{width} after {batches}", *parted(width, batches))


if __name__ == "__main__":
    main()
