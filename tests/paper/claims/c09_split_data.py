"""Figures 5, 10 and 11: two networks that saw different halves of the classes, merged."""

from __future__ import annotations

from dataclasses import replace

from tests.paper.lab import Lab, middle, mlp
from tests.paper.outcome import Claim, Outcome, verdict
from tests.paper.pictures import lines


def run(lab: Lab) -> Outcome:
    small = mlp(196, 256, 256, 256, 10, epochs=16, batch=100, examples=10_000)
    base = small if lab.quick else mlp(196, 512, 512, 512, 10, epochs=20, batch=100)
    first, second = replace(base, share=0.8), replace(base, share=0.2)
    a, b, everything = lab.trained((first, 0), (second, 1), (base, 0))
    found = lab.barrier(base, a, b, "--ensemble", "--metric", "calibration-error")
    aligned, naive = found["aligned"], found["naive"]
    ensemble = middle(found["ensemble"]["loss"])
    whole = lab.barrier(base, everything, a, "--no-align", steps=2)["naive"]["loss"][0]
    merged, ends = middle(aligned["loss"]), (aligned["loss"][0], aligned["loss"][-1])
    errors = {
        name: middle(curve["metrics"]["calibration-error"])
        for name, curve in (("merged", aligned), ("ensemble", found["ensemble"]))
    }
    of_ends = min(aligned["metrics"]["calibration-error"][0], aligned["metrics"]["calibration-error"][-1])
    said = {
        "merged loss below both ends": merged < min(ends),
        "accuracy not above both": middle(aligned["accuracy"]) <= max(aligned["accuracy"][0], aligned["accuracy"][-1]),
        "calibration nearer the ensemble's than the ends'": abs(errors["merged"] - errors["ensemble"])
        < abs(of_ends - errors["ensemble"]),
        "ensemble better": ensemble < merged,
        "all data better": whole < merged,
    }
    figures = (
        f"loss A {ends[0]:.3f}, B {ends[1]:.3f}, naive {middle(naive['loss']):.3f}, merged {merged:.3f}, ensemble "
        f"{ensemble:.3f}, trained on all {whole:.3f}; calibration error A or B {of_ends:.3f}, merged "
        f"{errors['merged']:.3f}, ensemble {errors['ensemble']:.3f}. "
        + "; ".join(f"{name}: {'yes' if holds else 'no'}" for name, holds in said.items())
    )
    lam = found["lambda"]
    curves = {name: (lam, found[name]["loss"]) for name in ("naive", "aligned", "ensemble")}
    picture = ("Split data: test loss from A to B", lines(curves, "λ", "test loss"))
    return Outcome(
        figures, verdict(all(said.values()), sum(said.values()) >= 3 and next(iter(said.values()))), (picture,)
    )


CLAIM = Claim(
    number=9,
    where="Fig. 5, 10, 11",
    says=(
        "Split data 20/80: the merged loss is below both ends, the accuracy is not, its calibration is "
        "near the ensemble's; the ensemble and training on all data are better"
    ),
    paper="plots (CIFAR-100)",
    rule="shown: all five statements; with limits: the first and two more",
    run=run,
)
