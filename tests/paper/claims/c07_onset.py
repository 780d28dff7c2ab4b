"""Figure 3: the basin comes with training."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from tests.paper.lab import Lab, mlp
from tests.paper.outcome import Claim, Outcome, verdict
from tests.paper.pictures import lines


def run(lab: Lab) -> Outcome:
    base = lab.sized(mlp(196, 256, 256, 256, 10, epochs=32, batch=100), 10_000, 16)
    epochs = [0, 1, 2, 4, 8, 16, *(() if lab.quick else (32, 64))]
    recipes = [replace(base, epochs=count) for count in epochs]
    paths = lab.trained(*((recipe, seed) for recipe in recipes for seed in (0, 1)))
    pairs = [paths[k : k + 2] for k in range(0, len(paths), 2)]
    found = [lab.barrier(recipe, *pair, steps=5) for recipe, pair in zip(recipes, pairs, strict=True)]
    last = lab.scratch("onset.safetensors")
    final = lab.rebasin("align", *pairs[-1], "-o", last, "--force")["outputs"]["permutation"]
    later = [
        lab.barrier(recipe, *pair, "--permutation", final, steps=5) for recipe, pair in zip(recipes, pairs, strict=True)
    ]
    naive, own, borrowed = (
        [each[name]["barrier"] for each in curves]
        for name, curves in (("naive", found), ("aligned", found), ("aligned", later))
    )
    shares = [x / y if y > 1e-4 else 1.0 for x, y in zip(own, naive, strict=True)]
    figures = "aligned barrier by epoch: " + ", ".join(f"{e}: {x:.3f}" for e, x in zip(epochs, own, strict=True))
    figures += "; of the naive one: " + ", ".join(f"{share:.2f}" for share in shares)
    figures += "; with the last permutation: " + ", ".join(f"{x:.3f}" for x in borrowed)
    curves = {"naive": (epochs, naive), "aligned": (epochs, own), "by the last permutation": (epochs, borrowed)}
    falls = shares[-1] < shares[1] and shares[-1] < 0.1
    monotone = all(later <= before + 0.03 for before, later in pairwise(shares[1:]))
    return Outcome(
        figures, verdict(falls and monotone, falls), (("Barrier by epoch", lines(curves, "epoch", "barrier")),)
    )


CLAIM = Claim(
    number=7,
    where="Fig. 3",
    says="The basin is a result of training: none at initialisation, the barrier falls with epochs",
    paper="falls to zero within 25 epochs",
    rule=(
        "shown: aligned ÷ naive falls from the first epoch on and ends under 10 %; with limits: it ends "
        "there, with rises between"
    ),
    run=run,
)
