"""Since the paper: cycle-consistent matching of many networks (C2M3, arXiv:2405.17897) against Algorithm 3."""

from __future__ import annotations

from tests.paper.claims.c15_many import five_mlps
from tests.paper.lab import Lab
from tests.paper.outcome import Claim, Outcome, verdict

ALGORITHMS = ("cycle-consistent", "merge-many")


def run(lab: Lab) -> Outcome:
    base = five_mlps(lab)
    paths = lab.trained(*((base, seed) for seed in range(5)))
    losses, seconds = {}, {}
    for algorithm in ALGORITHMS:
        document = lab.rebasin(
            "merge", *paths, "-o", lab.scratch(f"{algorithm}.safetensors"), "--force", "--algorithm",
            algorithm, "--data", lab.data(base, limit=2000 if lab.quick else 10_000), "--steps", 3,
        )["merge"]  # fmt: skip
        losses[algorithm] = document["scores"]["merged"]["loss"]
        seconds[algorithm] = document["seconds"]
    figures = "five MLPs of row 15, loss of the merge: " + ", ".join(
        f"{name} {losses[name]:.4f} in {seconds[name]:.1f} s" for name in ALGORITHMS
    )
    consistent, many = (losses[name] for name in ALGORITHMS)
    return Outcome(figures, verdict(consistent < many, consistent < 1.05 * many))


CLAIM = Claim(
    number=21,
    where="since: 2405.17897",
    says="Cycle-consistent matching of many networks merges better than Algorithm 3",
    paper="better on every network there",
    rule="shown: a lower loss for five MLPs; with limits: no more than 5 % higher",
    run=run,
)
