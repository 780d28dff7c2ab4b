"""Since the paper: judged at their best temperature, wide networks need no permutation (arXiv:2510.08023)."""

from __future__ import annotations

from tests.paper.lab import Lab, mlp
from tests.paper.outcome import Claim, Outcome, verdict
from tests.paper.pictures import lines


def run(lab: Lab) -> Outcome:
    plain: dict[int, float] = {}
    fitted: dict[int, float] = {}
    matched: dict[int, float] = {}
    for width in (16, 64, 256, *(() if lab.quick else (1024, 4096))):
        recipe = mlp(64, width, width, 10, data="digits", side=8, epochs=40, batch=50)
        a, b = lab.pair(recipe)
        # The half of the digits that no network was trained on is cut in two: one to fit on, one to judge by.
        judged, held = lab.halves(recipe)
        found = lab.barrier(recipe, a, b, "--calibrate", "--fit-data", held, data=judged)
        plain[width] = lab.barrier(recipe, a, b, data=judged)["naive"]["barrier"]
        fitted[width], matched[width] = (found[name]["barrier"] for name in ("naive", "aligned"))
    figures = "MLPs on digits, barrier by width, " + "; ".join(
        f"{name}: {', '.join(f'{w}: {value:.3f}' for w, value in values.items())}"
        for name, values in (("naive", plain), ("naive, calibrated", fitted), ("aligned, calibrated", matched))
    )
    widest = max(plain)
    curves = {
        name: (list(values), list(values.values()))
        for name, values in (("naive", plain), ("naive, calibrated", fitted), ("aligned, calibrated", matched))
    }
    picture = ("Barrier by width, with and without a temperature", lines(curves, "width", "barrier", logarithmic="x"))
    needs_none = fitted[widest] <= matched[widest] + 0.05 * plain[widest]
    return Outcome(figures, verdict(needs_none, fitted[widest] < 0.5 * plain[widest]), (picture,))


CLAIM = Claim(
    number=20,
    where="since: 2510.08023",
    says="Judged at the best temperature of every point, wide networks need no permutation",
    paper="ResNet20 ×32: .087 without a permutation, .173 with weight matching",
    rule=(
        "shown: the calibrated naive barrier of the widest network is no more than 5 % of the plain one above the "
        "calibrated aligned one; with limits: a temperature takes away more than half of the barrier"
    ),
    run=run,
)
