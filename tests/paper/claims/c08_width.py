"""Figure 4: wider networks have lower barriers."""

from __future__ import annotations

import numpy as np

from tests.paper.claims.c04_resnet_width import shares as resnet_shares
from tests.paper.lab import Lab, mlp, vgg
from tests.paper.outcome import Claim, Outcome, verdict
from tests.paper.pictures import lines


def run(lab: Lab) -> Outcome:
    seeds = (0,) if lab.quick else (0, 2)
    found: dict[str, dict[int, float]] = {"MLP on digits": {}, "VGG16, LayerNorm": {}}
    for width in (16, 64, 256) if lab.quick else (16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
        recipe = mlp(64, width, width, 10, data="digits", side=8, epochs=40, batch=50)
        barriers = [lab.barrier(recipe, *lab.trained((recipe, seed), (recipe, seed + 1)), steps=11) for seed in seeds]
        found["MLP on digits"][width] = sum(each["aligned"]["barrier"] for each in barriers) / len(seeds)
    if not lab.quick:
        found["MLP on MNIST-1D"] = {}
        for width in (16, 64, 256, 1024, 4096):
            recipe = mlp(40, width, width, 10, data="mnist1d", side=1, epochs=40, batch=50)
            barrier = lab.barrier(recipe, *lab.pair(recipe))
            found["MLP on MNIST-1D"][width] = barrier["aligned"]["barrier"]
    for width in (4, 8) if lab.quick else (8, 16, 32):
        recipe = lab.sized(vgg(width, epochs=8, examples=20_000), 2_500, 3)
        barrier = lab.barrier(recipe, *lab.pair(recipe), steps=3, limit=500 if lab.quick else 10_000)
        found["VGG16, LayerNorm"][width] = barrier["aligned"]["barrier"] / barrier["naive"]["barrier"]
    found["ResNet20, LayerNorm"] = resnet_shares(lab)
    slopes = {name: _slope(values) for name, values in found.items()}
    figures = (
        "; ".join(
            f"{name}: {', '.join(f'{w}: {value:.3g}' for w, value in values.items())}, ∝ width^{slopes[name]:.2f}"
            for name, values in found.items()
        )
        + " (MLPs: nats; others: of the naive barrier)"
    )
    curves = {name: (list(values), [max(v, 1e-5) for v in values.values()]) for name, values in found.items()}
    picture = ("Aligned barrier by width", lines(curves, "width", "barrier", logarithmic="xy"))
    falling = [slope < 0 for slope in slopes.values()]
    return Outcome(figures, verdict(all(falling), any(falling)), (picture,))


def _slope(values: dict[int, float]) -> float:
    """The exponent a of barrier ∝ width^a, by least squares in logarithms; barriers of zero count as 10⁻⁵."""
    logs = np.log([max(value, 1e-5) for value in values.values()])
    return float(np.polyfit(np.log(list(values)), logs, 1)[0])


CLAIM = Claim(
    number=8,
    where="Fig. 4",
    says="The wider, the lower the barrier",
    paper="falls in all plots",
    rule="shown: the fitted exponent is negative for all; with limits: for some",
    run=run,
)
