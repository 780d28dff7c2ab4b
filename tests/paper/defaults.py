"""Why each default is what it is: objective and barrier by method, start and order, over the claims' own networks.

    python -m tests.paper.defaults --quick

Every figure is kept like those of the claims, so that a run that was cut short goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import mean, median

import torch

from tests.paper.claims.c11_failures import RUNS
from tests.paper.claims.c15_many import five_mlps
from tests.paper.claims.c19_transformers import GPT, VIT
from tests.paper.datasets import available, has_text
from tests.paper.lab import CommandFailedError, Lab, Recipe, mlp, resnet, vgg

FOLDER = Path(__file__).parents[2] / "bench" / "paper"
WAYS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "fast: anchored, forward": ("--quality", "fast"),
    "fast: identity, forward": ("--quality", "fast", "--start", "identity"),
    "fast: identity, random (the paper's)": ("--quality", "fast", "--start", "identity", "--order", "random"),
    "high": ("--quality", "high"),
    "frank-wolfe": ("--method", "frank-wolfe"),
    "activations": ("--method", "activations"),
}
EXAMPLES = 1_000
CLEARLY_HIGHER, CLEARLY_WORSE = 1e-3, 0.01  # of the objective; of the naive barrier
REFUSED = 3  # the code of a method that this architecture does not have


@dataclass(frozen=True)
class Pair:
    """Two networks of one recipe, by the numbers of their seeds."""

    name: str
    recipe: Recipe
    seeds: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Found:
    """What one way found for one pair: ⟨A, π(B)⟩, aligned barrier as a share of the naive one, seconds of matching."""

    objective: float
    share: float
    seconds: float


def pairs(lab: Lab) -> Iterator[Pair]:
    """The pairs of the claims, with some seeds more."""
    yield Pair(
        "MLP 3 × 48, noisy labels", lab.sized(mlp(196, 48, 48, 48, 10, noise=0.3, epochs=30, batch=100), 10_000, 15)
    )
    for width in (16, 64, 256):
        recipe = mlp(64, width, width, 10, data="digits", side=8, epochs=40, batch=50)
        for seeds in ((0, 1), (2, 3)):
            yield Pair(f"MLP 2 × {width}, digits", recipe, seeds)
    base = lab.sized(mlp(196, 256, 256, 256, 10, epochs=20, batch=100), 10_000, 8)
    for name, changes in RUNS.items():
        yield Pair(f"MLP, {name}", replace(base, **changes))  # type: ignore[arg-type]
    five = five_mlps(lab)
    for seeds in ((0, 1), (1, 2), (2, 3), (3, 4), (0, 4)):
        yield Pair("MLP 3 × 256" if lab.quick else "MLP 3 × 512 longer", five, seeds)
    wide = lab.sized(mlp(784, 512, 512, 512, 10, side=28, epochs=20), 20_000, 8)
    yield Pair("MLP 3 × 512", wide)
    for width in (8, 16):
        yield Pair("ResNet20, LayerNorm", lab.sized(resnet(width, epochs=8, examples=20_000), 6_000, 3))
    for norm, name in (("", "LayerNorm"), ("-bn", "BatchNorm"), ("-gn", "GroupNorm")):
        recipe = resnet(16 if lab.quick else 32, norm, blocks=1, epochs=8, examples=20_000)
        yield Pair(f"ResNet8, {name}", lab.sized(recipe, 4_000, 3))
    deep = resnet(16 if lab.quick else 32, "-bn", epochs=8, examples=20_000)
    yield Pair("ResNet20, BatchNorm", lab.sized(deep, 2_500, 3))
    yield Pair(
        "VGG11, LayerNorm", lab.sized(vgg(8 if lab.quick else 16, maker="vgg11", epochs=8, examples=20_000), 2_500, 3)
    )
    for width in (4, 8) if lab.quick else (8, 16):
        yield Pair("VGG16, LayerNorm", lab.sized(vgg(width, epochs=8, examples=20_000), 2_500, 3))
    yield Pair("ViT", lab.sized(VIT, 4_000, 4))
    if has_text():
        yield Pair("GPT", lab.sized(GPT, 2_500, 2))


def measured(lab: Lab, pair: Pair, way: str) -> Found | None:
    """Match and measure one pair in one way; None: there is none for this architecture."""
    a, b = lab.trained(*((pair.recipe, seed) for seed in pair.seeds))
    fit = ("--fit-data", lab.data(pair.recipe, train=True, limit=EXAMPLES)) if way == "activations" else ()
    try:
        document = lab.rebasin(
            "interpolate", a, b, "--data", lab.data(pair.recipe, limit=EXAMPLES), "--steps", 3, *WAYS[way], *fit,
            recipe=pair.recipe,
        )  # fmt: skip
    except CommandFailedError as failed:
        if failed.code == REFUSED:
            return None
        raise
    barrier, match = document["barrier"], document["match"]
    share = barrier["aligned"]["barrier"] / max(barrier["naive"]["barrier"], 1e-6)
    return Found(match["objective"][-1], share, sum(match["seconds"].values()))


Table = Mapping[tuple[str, tuple[int, int], Recipe], Mapping[str, Found]]


def markdown(table: Table, how: str) -> str:
    """Two tables and what they say."""
    rows = list(table.values())
    columns = ("way", "pairs", "objective, mean", "barrier, mean", "median", "best in", "matching, mean")
    lines = [
        "# Why each default is what it is", "", how, "",
        f"## {len(rows)} pairs, by way", "",
        "Objective: ⟨A, π(B)⟩ as a share of the highest that any way found. Barrier: the aligned one as a share of the "
        "naive one, at λ = ½. Best: pairs of which no other way has a barrier lower by 1 % of the naive one. "
        "Frank-Wolfe moves all dims together, which units within groups do not allow.", "",
        f"| {' | '.join(columns)} |", "|---" * len(columns) + "|",
    ]  # fmt: skip
    for way in WAYS:
        found = [(row[way], row.values()) for row in rows if way in row]
        objective = mean(each.objective / max(o.objective for o in row) for each, row in found)
        best = sum(each.share <= min(o.share for o in row) + CLEARLY_WORSE for each, row in found)
        shares = [each.share for each, _ in found]
        lines.append(
            f"| {way} | {len(found)} | {100 * objective:.2f} % | {100 * mean(shares):.1f} % "
            f"| {100 * median(shares):.1f} % | {best} | {mean(each.seconds for each, _ in found):.2f} s |"
        )
    lines += [
        "", "## By network", "", "Barrier as a share of the naive one; several pairs of one kind are averaged.", "",
        f"| network | pairs | {' | '.join(WAYS)} |", "|---" * (len(WAYS) + 2) + "|",
    ]  # fmt: skip
    for name in dict.fromkeys(name for name, _, _ in table):
        group = [row for (own, _, _), row in table.items() if own == name]
        shares_by_way = [[row[way].share for row in group if way in row] for way in WAYS]
        cells = [f"{100 * mean(shares):.1f} %" if shares else "–" for shares in shares_by_way]
        lines.append(f"| {name} | {len(group)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "## Objective and barrier", "", *_contradictions(table)]) + "\n"


def _contradictions(table: Table) -> Iterator[str]:
    """Where a higher objective has a higher barrier."""
    compared, against = 0, []
    for (name, seeds, _), row in table.items():
        for one, other in combinations((way for way in row if way != "activations"), 2):
            low, high = sorted((one, other), key=lambda way: row[way].objective)
            if row[high].objective <= row[low].objective * (1 + CLEARLY_HIGHER):
                continue
            compared += 1
            if row[high].share > row[low].share + CLEARLY_WORSE:
                against.append((row[high].share - row[low].share, name, seeds, high, low))
    yield (
        f"A higher objective is not always a lower barrier: of {compared} comparisons of two ways on one pair in which "
        f"one objective is higher by 0.1 % or more, {len(against)} have the higher barrier there, by 1 % of the naive "
        "one or more (activations look at another objective, and are left out)."
    )
    if against:
        more, name, seeds, high, low = max(against)
        yield (
            f"The largest: {name}, seeds {seeds[0]} and {seeds[1]}, where `{high}` has the higher objective and a "
            f"barrier that is {100 * more:.1f} % of the naive one higher than `{low}`."
        )


def main() -> None:
    """Measure what was asked for, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the networks of the quick form of the claims")
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--trained", action="store_true", help="only pairs whose networks are there")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where networks and figures are kept")
    parser.add_argument("-o", "--output", type=Path, help="the tables; else defaults.md in the folder")
    chosen = parser.parse_args()
    data = available(None)
    lab = Lab(chosen.folder, quick=chosen.quick, seed=chosen.seed)
    command = f"python -m tests.paper.defaults{' --quick' if chosen.quick else ''} --seed {chosen.seed}"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    how = f"Data: {data} and digits. `{command}` on {machine}."
    table: dict[tuple[str, tuple[int, int], Recipe], dict[str, Found]] = {}
    for pair in pairs(lab):
        if chosen.trained and not all(lab.place(pair.recipe, seed).exists() for seed in pair.seeds):
            continue
        found = {way: each for way in WAYS if (each := measured(lab, pair, way))}
        table[pair.name, pair.seeds, pair.recipe] = found
        print(f"{pair.name}: " + ", ".join(f"{way} {each.share:.3f}" for way, each in found.items()), flush=True)
        (chosen.output or chosen.folder / "defaults.md").write_text(markdown(table, how))


if __name__ == "__main__":
    main()
