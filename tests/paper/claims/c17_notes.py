"""Lemma 2 and the notes: the algorithm ends, slerp against lerp."""

from __future__ import annotations

from itertools import pairwise

import torch
from safetensors.torch import save_file

from tests.paper.lab import Lab, middle, mlp, resnet
from tests.paper.outcome import Claim, Outcome, verdict


def run(lab: Lab) -> Outcome:
    ended = _endings(lab, 20 if lab.quick else 100)
    rows = []
    for name, recipe in (
        ("MLP", lab.sized(mlp(784, 512, 512, 512, 10, side=28, epochs=20), 20_000, 8)),
        ("ResNet20", lab.sized(resnet(16, epochs=8, examples=20_000), 6_000, 3)),
    ):
        a, b = lab.pair(recipe)
        straight = lab.barrier(recipe, a, b, steps=5)
        arc = lab.barrier(recipe, a, b, "--combine", "slerp", steps=5)
        rows.append((name, middle(straight["aligned"]["loss"]), middle(arc["aligned"]["loss"])))
    figures = (
        f"{ended[0]} of {ended[1]} random problems: the objective never falls and the descent ends; loss at λ = ½, "
        + ", ".join(f"{name}: lerp {lerp:.3f}, slerp {slerp:.3f}" for name, lerp, slerp in rows)
    )
    better = any(slerp < lerp for _, lerp, slerp in rows)
    return Outcome(figures, verdict(ended[0] == ended[1] and better, ended[0] == ended[1]))


def _endings(lab: Lab, trials: int) -> tuple[int, int]:
    """Of random pairs of MLPs, those whose objective rises to an end where nothing changes any more."""
    good = 0
    for trial in range(trials):
        paths = []
        for role in (0, 1):
            generator = torch.Generator().manual_seed(2 * trial + role)
            state = {
                f"fc.{i}.weight": torch.randn(n, m, generator=generator)
                for i, (n, m) in enumerate([(16, 8), (16, 16), (4, 16)])
            }
            path = lab.scratch(f"random-{role}.safetensors")
            save_file(state, path)
            paths.append(path)
        out = lab.scratch("random-aligned.safetensors")
        match = lab.rebasin(
            "align", *paths, "--start", "identity", "--order", "random", "--seed", trial, "-o", out, "--force"
        )["match"]
        objective = match["objective"]
        rises = all(y >= x - 1e-9 * abs(x) for x, y in pairwise(objective))
        good += match["stop"] == "converged" and rises
    return good, trials


CLAIM = Claim(
    number=17,
    where="Lemma 2, notes 2 and 3",
    says="Algorithm 1 ends; slerp is slightly better at times",
    paper="a proof; in words",
    rule="shown: every descent ends and slerp is better for one of two networks; with limits: the first",
    run=run,
)
