"""Figure 2: a network too small for its data keeps a barrier."""

from __future__ import annotations

from tests.paper.lab import Lab, mlp
from tests.paper.outcome import Claim, Outcome, verdict

RECIPE = mlp(196, 48, 48, 48, 10, noise=0.3, epochs=30, batch=100)


def run(lab: Lab) -> Outcome:
    recipe = lab.sized(RECIPE, 10_000, 15)
    found = lab.barrier(recipe, *lab.pair(recipe))
    naive, aligned = found["naive"]["barrier"], found["aligned"]["barrier"]
    share = aligned / naive
    return Outcome(
        f"MLP 3 × 48 with 30 % wrong labels: naive {naive:.3f}, aligned {aligned:.3f} ({100 * share:.0f} %)",
        verdict(aligned > 0.005 and share < 0.5, aligned > 0.005 and share < 1),
    )


CLAIM = Claim(
    number=3,
    where="Fig. 2",
    says="An under-powered MLP keeps a small barrier",
    paper="a small barrier in the plot (CIFAR-10)",
    rule="shown: above 0.005 nats and under half of the naive one; with limits: under the naive one",
    run=run,
)
