"""What a mix of weights and activations (`--mix`) is worth: two and four trained networks merged at several shares.

    python -m tests.benchmarks.mixing --sets digits-mlp,digits-resnet20-bn

The networks are those of `tests.benchmarks.polish`, trained once. Losses on test examples: single, merged,
and merged with channels rescaled (REPAIR). `--scale all` measures what was not taken: the norm of
all weights for every block, in place of the block's own.

Two networks, merged with REPAIR, at 0, ¼, ½, ¾ and 1: digits-resnet20-bn 1.653, .482, .377, .381, .434
(one norm for all: 1.653, .361, .380, .427, .434); digits-mlp .181, .175, .188, .199, .209 (–, .185, .194, .203, –).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO

from rebasin_cli.cli import main as rebasin
from rebasin_cli.matching.data import mixing
from rebasin_cli.matching.problem import State
from rebasin_cli.merging import many_by_activations
from rebasin_cli.spec import Layout
from tests.benchmarks.polish import FOLDER, SETS, prepare

SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


def of_all_weights(layout: Layout, state: State, own: object = mixing.norms_of) -> Mapping[str, float]:
    """One norm for every block."""
    found: Mapping[str, float] = own(layout, state)  # type: ignore[operator]
    return dict.fromkeys(found, sum(norm * norm for norm in found.values()) ** 0.5)


def measure(name: str, count: int, share: float) -> str:
    """One line."""
    paths, test, fit = prepare(name)
    network = SETS[name].network
    printed = StringIO()
    with redirect_stdout(printed):
        code = rebasin([
            "merge", *map(str, paths[:count]), "-o", str(FOLDER / "mixed.safetensors"), "--force", "--quiet", "--json",
            "--method", "activations", "--mix", str(share), "--data", str(test), "--fit-data", str(fit),
            "--repair", "repair", "--steps", "3", *(["--network", network] if network else []),
        ])  # fmt: skip
    if code:
        return f"{name:22}{count} {share:5.2f} exit {code}"
    document = json.loads(printed.getvalue())
    loss = {key: score["loss"] for key, score in document["merge"]["scores"].items()}
    figures = (document["verdict"]["members"], loss["merged"], loss["merged + repair"])
    return f"{name:22}{count} {share:5.2f}" + "".join(f"{figure:10.4f}" for figure in figures)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", default="digits-mlp,digits-resnet20-bn")
    parser.add_argument("--counts", default="2,4")
    parser.add_argument("--scale", default="block", choices=("block", "all"))
    given = parser.parse_args()
    if given.scale == "all":
        mixing.norms_of = many_by_activations.norms_of = of_all_weights  # type: ignore[assignment]
    print(f"{'set':22}n   mix    single     merge  + repair")
    for name in given.sets.split(","):
        for count in map(int, given.counts.split(",")):
            for share in SHARES:
                print(measure(name, count, share), flush=True)


if __name__ == "__main__":
    main()
