"""Appendix A.4: which normalisation layers can be matched."""

from __future__ import annotations

from tests.paper.lab import Lab, middle, resnet
from tests.paper.outcome import REFUTED, Claim, Outcome, verdict


def run(lab: Lab) -> Outcome:
    shares, right = {}, {}
    for name, norm in (("LayerNorm", ""), ("BatchNorm", "-bn"), ("GroupNorm", "-gn")):
        recipe = lab.sized(resnet(16 if lab.quick else 32, norm, blocks=1, epochs=8, examples=20_000), 4_000, 3)
        more = (
            ("--repair", "bn", "--fit-data", lab.data(recipe, train=True, limit=500 if lab.quick else 2_000))
            if norm == "-bn"
            else ()
        )
        found = lab.barrier(recipe, *lab.pair(recipe), *more, steps=5, limit=1_000 if lab.quick else 10_000)
        shares[name] = found["aligned"]["barrier"] / found["naive"]["barrier"]
        right[name] = middle(found["aligned"]["accuracy"])
        if more:
            reset = found["repaired"]["aligned + bn"]
            shares["BatchNorm, reset"] = reset["barrier"] / found["naive"]["barrier"]
            right["BatchNorm, reset"] = middle(reset["accuracy"])
    figures = "aligned ÷ naive barrier (accuracy at λ = ½): " + ", ".join(
        f"{name} {share:.2f} ({100 * right[name]:.0f} %)" for name, share in shares.items()
    )
    if shares["GroupNorm"] < 0.7:
        return Outcome(f"{figures}: GroupNorm is matched within its groups", REFUTED)
    return Outcome(figures, verdict(shares["BatchNorm, reset"] < shares["BatchNorm"]))


CLAIM = Claim(
    number=12,
    where="A.4",
    says="LayerNorm is no obstacle, BatchNorm needs new statistics, GroupNorm would not work",
    paper="untested in the paper",
    rule=("refuted: a network with GroupNorm loses more than 30 % of its barrier; else shown if the reset helps"),
    run=run,
)
