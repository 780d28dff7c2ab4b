"""`python -m tests.paper`: run the claims and write the report.

    python -m tests.paper --quick
    python -m tests.paper --claims 2,5,18 --seed 10
    python -m tests.paper --quick --seeds 1,2,3
    python -m tests.paper --data-root folder/of/cifar-10-batches-py

What was trained and measured is kept in the folder, so that a run that was cut short goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import platform
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import torch

from tests.paper import claims
from tests.paper.datasets import available
from tests.paper.lab import Costs, Lab
from tests.paper.outcome import Claim
from tests.paper.report import Row, html, markdown, summary, time_text

FOLDER = Path(__file__).parents[2] / "bench" / "paper"


def all_claims() -> list[Claim]:
    """Every claim, in the order of its number."""
    names = [module.name for module in iter_modules(claims.__path__)]
    found: list[Claim] = [import_module(f"tests.paper.claims.{name}").CLAIM for name in names]
    return sorted(found, key=lambda claim: claim.number)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller networks and fewer epochs: ten minutes")
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--seeds", default="", help="comma-separated: judge every claim with these, too")
    parser.add_argument("--claims", default="", help="numbers, comma-separated; else all")
    parser.add_argument(
        "--data-root",
        type=Path,
        help="a folder of idx files (MNIST), of CIFAR-10's or CIFAR-100's Python files, or ImageNet's folders",
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where networks and the report are kept")
    parser.add_argument("-o", "--output", type=Path, help="the report without its ending; else in the folder")
    chosen = parser.parse_args()
    wanted = {int(number) for number in chosen.claims.split(",") if number}
    data = available(chosen.data_root)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    lab, *others = [
        Lab(chosen.folder, quick=chosen.quick, seed=seed, root=chosen.data_root)
        for seed in (chosen.seed, *map(int, filter(None, chosen.seeds.split(","))))
    ]
    rows = []
    for claim in all_claims():
        if wanted and claim.number not in wanted:
            continue
        print(f"{claim.number:2} {claim.where}: {claim.says}", flush=True)
        lab.costs = Costs()
        outcome = claim.run(lab)
        row = Row(claim, outcome, lab.costs.total(), {other.seed: claim.run(other).verdict for other in others})
        rows.append(row)
        print(f"   {outcome.verdict} ({time_text(row.seconds)}; {row.seeds()}): {outcome.figures}", flush=True)
    command = f"python -m tests.paper{' --quick' if chosen.quick else ''} --seed {chosen.seed}"
    command += f" --seeds {chosen.seeds}" if chosen.seeds else ""
    command += f" --claims {chosen.claims}" if chosen.claims else ""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    form = "Quick form: smaller networks, fewer examples and epochs than `make paper` takes. " if chosen.quick else ""
    how = (
        f"Data: {data}, and digits where a row says so. `{command}` on {machine}. {form}Processor time is of all that "
        "a row needs, training included; rows share networks, so that the whole takes less than the sum; "
        "a dash: made before times were kept."
    )
    base = chosen.output or chosen.folder / ("quick" if chosen.quick else "report")
    base.with_suffix(".md").write_text(markdown(rows, how))
    base.with_suffix(".html").write_text(html(rows, how))
    print(f"{summary(rows)}\n{base.with_suffix('.md')}\n{base.with_suffix('.html')}")


if __name__ == "__main__":
    main()
