"""Appendix A.10: several networks merged into one."""

from __future__ import annotations

from dataclasses import replace

from tests.paper.lab import Lab, Recipe, mlp
from tests.paper.outcome import Claim, Outcome, verdict


def five_mlps(lab: Lab) -> Recipe:
    """What the networks are that are merged."""
    small = mlp(196, 256, 256, 256, 10, epochs=16, batch=100, examples=10_000)
    return small if lab.quick else mlp(196, 512, 512, 512, 10, epochs=40)


def run(lab: Lab) -> Outcome:
    base = five_mlps(lab)
    five = _merged(lab, base, lab.trained(*((base, seed) for seed in range(5))), "five")
    count = 4 if lab.quick else 16
    halves = [replace(base, half=seed) for seed in range(count)]
    many = _merged(lab, base, lab.trained(*((recipe, k) for k, recipe in enumerate(halves))), "many")
    figures = "; ".join(
        f"{what}: loss {min(each['members']):.4f} to {max(each['members']):.4f} each, plain mean {each['mean']:.3f}, "
        f"merged {each['merged']:.4f}, ensemble {each['ensemble']:.4f}; calibration error merged {each['error']:.3f}, "
        f"ensemble {each['ensemble error']:.3f}; accuracy up to {100 * each['best']:.1f} %, "
        f"merged {100 * each['right']:.1f} %"
        for what, each in (
            (f"five MLPs 3 × {256 if lab.quick else 512}, {base.epochs} epochs", five),
            (f"{count} on random halves", many),
        )
    )
    lower = five["merged"] < min(five["members"])
    return Outcome(figures, verdict(lower and many["merged"] < min(many["members"]), lower))


def _merged(lab: Lab, recipe: object, paths: list[object], name: str) -> dict[str, object]:  # type: ignore[type-arg]
    document = lab.rebasin(
        "merge", *paths, "-o", lab.scratch(f"{name}.safetensors"), "--force", "--data",
        lab.data(recipe, limit=2000 if lab.quick else 10_000), "--steps", 3, "--metric", "calibration-error",  # type: ignore[arg-type]
    )  # fmt: skip
    scores = document["merge"]["scores"]
    members = [score for name, score in scores.items() if name.startswith("model.")]
    return {
        "members": [score["loss"] for score in members], "best": max(score["accuracy"] for score in members),
        "mean": scores["naive average"]["loss"], "merged": scores["merged"]["loss"],
        "right": scores["merged"]["accuracy"], "error": scores["merged"]["metrics"]["calibration-error"],
        "ensemble": scores["ensemble"]["loss"], "ensemble error": scores["ensemble"]["metrics"]["calibration-error"],
    }  # fmt: skip


CLAIM = Claim(
    number=15,
    where="A.10, Table 3",
    says=("Five MLPs merged have a lower test loss than each; 32 on random halves are calibrated like an ensemble"),
    paper=".1153, .1531, .1229, .1108 and .1443 → .0727; accuracy .98 → .9831",
    rule="shown: the merged loss is below every member's in both cases; with limits: of the five",
    run=run,
)
