"""Appendix A.1: where matching by weights fails."""

from __future__ import annotations

from dataclasses import replace

from tests.paper.lab import Lab, mlp
from tests.paper.outcome import Claim, Outcome, verdict

RUNS = {
    "Adam .001": {}, "Adam .01": {"rate": 1e-2}, "SGD .1": {"optimiser": "sgd", "rate": 0.1},
    "SGD .01": {"optimiser": "sgd", "rate": 1e-2}, "SGD .001": {"optimiser": "sgd", "rate": 1e-3},
    "narrow": {"options": (("widths", (196, 12, 12, 12, 10)),)}, "one epoch": {"epochs": 1},
}  # fmt: skip


def run(lab: Lab) -> Outcome:
    base = lab.sized(mlp(196, 256, 256, 256, 10, epochs=20, batch=100), 10_000, 8)
    recipes = {name: replace(base, **changes) for name, changes in RUNS.items()}  # type: ignore[arg-type]
    lab.trained(*((recipe, seed) for recipe in recipes.values() for seed in (0, 1)))
    found = {name: lab.barrier(recipe, *lab.pair(recipe), steps=11) for name, recipe in recipes.items()}
    shares = {name: each["aligned"]["barrier"] / max(each["naive"]["barrier"], 1e-6) for name, each in found.items()}
    figures = "aligned barrier (of the naive one): " + ", ".join(
        f"{name} {found[name]['aligned']['barrier']:.3f} ({100 * share:.0f} %)" for name, share in shares.items()
    )
    good = shares["Adam .001"]
    failing = [name for name, share in shares.items() if share > max(3 * good, 0.1)]
    return Outcome(f"{figures}; failing: {', '.join(failing) or 'none'}", verdict(len(failing) >= 2, bool(failing)))


CLAIM = Claim(
    number=11,
    where="A.1",
    says="Failures: narrow networks, early ones, SGD at a low rate, Adam at a high one",
    paper="in words",
    rule=(
        "shown: two or more of them keep over three times the default's share of the barrier, and over 10"
        " %; with limits: one"
    ),
    run=run,
)
