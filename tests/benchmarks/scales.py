"""Does it help weight matching to take scales and signs out first, on networks with BatchNorm?

    python -m tests.benchmarks.train_resnet FOLDER --seeds 0 1 2 3
    python -m tests.benchmarks.scales FOLDER

A filter before BatchNorm has no length of its own, and it may change its sign together with the scale behind it. Most
rows match on another view of the weights and mix the networks as they are; those that say `both so` bring both
networks to one form, which computes the same, and mix that. At λ = ½, statistics recomputed on training images; loss
and accuracy on test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from rebasin_cli.evaluation.data import Dataset, load_data
from rebasin_cli.evaluation.evaluate import evaluate, runner
from rebasin_cli.evaluation.networks.network import Network
from rebasin_cli.evaluation.networks.registry import build_network
from rebasin_cli.evaluation.scores import Scores
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.problem import Problem
from rebasin_cli.merging.channel_statistics import reset_statistics
from rebasin_cli.merging.interpolation import interpolated
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.spec import Layout, bind, find_spec

State = dict[str, Tensor]
EPS = 1e-5  # BatchNorm's


def batchnorms(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """(key of a filter bank, name of the BatchNorm behind it)."""
    for key in state:
        norm = key.removesuffix(".weight")
        if "conv" in norm:
            yield key, norm.replace("conv", "bn")
        elif norm.endswith("shortcut.0"):
            yield key, norm[:-1] + "1"


def per_tensor(state: State) -> State:
    """Every tensor of length 1, so that all count alike."""
    return {k: t / t.norm().clamp(min=1e-12) if t.is_floating_point() else t for k, t in state.items()}


def folded(state: State) -> State:
    """BatchNorm folded into the filters before it: what the pair computes in evaluation mode."""
    found = dict(state)
    for conv, norm in batchnorms(state):
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EPS).sqrt()
        found[conv] = state[conv] * scale[:, None, None, None]
        found[f"{norm}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        found[f"{norm}.weight"] = torch.zeros_like(scale)
    return found


def scaled(state: State, factor: Callable[[Tensor, Tensor], Tensor]) -> State:
    """Every filter times a factor of (its length, the scale behind it), which BatchNorm takes out again."""
    found = dict(state)
    for conv, norm in batchnorms(state):
        by = factor(state[conv].flatten(1).norm(dim=1), state[f"{norm}.weight"])
        found[conv] = state[conv] * by[:, None, None, None]
        found[f"{norm}.running_mean"] = state[f"{norm}.running_mean"] * by
        found[f"{norm}.running_var"] = state[f"{norm}.running_var"] * by.square()
        found[f"{norm}.weight"] = state[f"{norm}.weight"] * by.sign()
    return found


def positive(state: State) -> State:
    """The same network with no negative scale."""
    return scaled(state, lambda length, scale: torch.where(scale < 0, -1.0, 1.0))


def unit_filters(state: State) -> State:
    """The same network (but for BatchNorm's ε) with filters of length 1 and no negative scale."""
    return positive(scaled(state, lambda length, scale: 1 / length.clamp(min=1e-12)))


def filters_alone(state: State) -> State:
    """Without what BatchNorm has learnt."""
    found = dict(state)
    for _, norm in batchnorms(state):
        found |= {f"{norm}.{part}": torch.zeros_like(state[f"{norm}.{part}"]) for part in ("weight", "bias")}
    return found


def unchanged(state: State) -> State:
    """As it is."""
    return state


VARIANTS: Mapping[str, tuple[Callable[[State], State], Callable[[State], State]]] = {
    "as they are": (unchanged, unchanged),
    "every tensor of length 1": (per_tensor, unchanged),
    "BatchNorm folded": (folded, unchanged),
    "folded, then of length 1": (lambda s: per_tensor(folded(s)), unchanged),
    "filters alone": (filters_alone, unchanged),
    "unit filters": (unit_filters, unchanged),
    "no negative scales, both so": (unchanged, positive),
    "unit filters, both so": (unchanged, unit_filters),
}
"""By name: what is matched on, and what both networks are brought to before."""


def midpoint(network: Network, layout: Layout, a: State, b: State, fit: Dataset) -> State:
    """½(A + B), statistics recomputed."""
    middle = {key: tensor.clone() for key, tensor in interpolated(layout, a, b, 0.5).items()}
    changed = reset_statistics(network.load(middle), runner(network, fit, 500)).changed
    return middle | {network.prefix + key: tensor for key, tensor in changed.items()}


def measure(name: str, a: State, b: State, layout: Layout, network: Network, fit: Dataset, test: Dataset) -> Scores:
    """What one variant reaches at the middle between two networks; an empty name does not align."""
    if name:
        view, form = VARIANTS[name]
        a, b = form(a), form(b)
        moved = permuted(match_by_weights(Problem(layout, view(a), view(b))).permutation, layout, b)
        b = {key: moved[key] for key in b}
    return evaluate(network, midpoint(network, layout, a, b, fit), test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="as written by tests.benchmarks.train_resnet; every pair is taken")
    parser.add_argument("--limit", type=int, default=2000, help="examples to fit and to test on")
    chosen = parser.parse_args()
    states = {path.stem[-1]: load_file(path) for path in sorted(chosen.folder.glob("*.safetensors"))}
    first = next(iter(states.values()))
    layout = bind(find_spec("resnet-basic"), {key: tuple(tensor.shape) for key, tensor in first.items()})
    network = build_network(layout, first, {})
    fit, test = (load_data(chosen.folder / f"{name}.npz", limit=chosen.limit) for name in ("train", "test"))
    ends = {seed: evaluate(network, state, test) for seed, state in states.items()}
    for seed, state in states.items():
        negative = sum(int((state[f"{norm}.weight"] < 0).sum()) for _, norm in batchnorms(state))
        print(f"seed {seed}: {ends[seed].loss:.4f} nats, {ends[seed].accuracy:.4f} right, {negative} negative scales")
    pairs = list(combinations(states, 2))
    titles = "".join(f"{one + ', ' + two:>8}" for one, two in pairs)
    print(f"{'barrier, matched on':28}{titles}{'mean':>9}{'right':>9}", flush=True)
    for name in ("", *VARIANTS):
        found = [measure(name, states[one], states[two], layout, network, fit, test) for one, two in pairs]
        means = [(ends[one].loss + ends[two].loss) / 2 for one, two in pairs]
        barriers = [scores.loss - mean for scores, mean in zip(found, means, strict=True)]
        columns = "".join(f"{barrier:8.4f}" for barrier in barriers)
        right = sum(scores.accuracy for scores in found) / len(found)
        print(f"{name or '(not aligned)':28}{columns}{sum(barriers) / len(pairs):9.4f}{right:9.4f}", flush=True)


if __name__ == "__main__":
    main()
