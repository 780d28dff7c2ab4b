"""Figures 2 and 4: the barrier of a ResNet20 with LayerNorm falls with its width."""

from __future__ import annotations

from itertools import pairwise

from tests.paper.lab import Lab, resnet
from tests.paper.outcome import Claim, Outcome, verdict
from tests.paper.pictures import lines

WIDTHS = (8, 16, 32, 64)


def shares(lab: Lab) -> dict[int, float]:
    """Aligned barrier as a fraction of the naive one, by width of the first stage; the paper's ×1 is 16."""
    found = {}
    for width in WIDTHS[: 2 if lab.quick else 4]:
        recipe = lab.sized(resnet(width, epochs=8, examples=20_000), 6_000, 3)
        barrier = lab.barrier(
            recipe, *lab.pair(recipe), steps=3 if lab.quick else 11, limit=1_000 if lab.quick else 10_000
        )
        found[width] = barrier["aligned"]["barrier"] / barrier["naive"]["barrier"]
    return found


def run(lab: Lab) -> Outcome:
    found = shares(lab)
    values = list(found.values())
    falls = all(later < before for before, later in pairwise(values))
    below = [f"×{width / 16:g}" for width, share in found.items() if share < 0.05]
    figures = "aligned ÷ naive barrier: " + ", ".join(f"×{w / 16:g} {share:.2f}" for w, share in found.items())
    figures += f"; under 5 %: {below[0] if below else 'none of these'}"
    picture = lines({"ResNet20, LayerNorm": (list(found), values)}, "width", "aligned ÷ naive barrier", logarithmic="x")
    return Outcome(figures, verdict(falls and bool(below), falls), (("Barrier by width", picture),))


CLAIM = Claim(
    number=4,
    where="Fig. 2, 4",
    says="ResNet20 with LayerNorm, 32 times as wide: no barrier",
    paper="0 at ×32",
    rule="shown: it falls with every width, and one is under 5 % of the naive one; with limits: it falls",
    run=run,
)
