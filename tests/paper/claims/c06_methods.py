"""Section 3: the three ways of matching side by side."""

from __future__ import annotations

from statistics import mean

from tests.paper.lab import Lab, mlp, resnet, vgg
from tests.paper.outcome import Claim, Outcome, verdict

WAYS = {
    "weights": ("--method", "weights"),
    "activations": ("--method", "activations"),
    "least squares": ("--method", "activations", "--similarity", "covariance"),
    "straight-through": ("--method", "ste", "--epochs", 3),
}


def run(lab: Lab) -> Outcome:
    recipes = {
        "MLP": lab.sized(mlp(784, 512, 512, 512, 10, side=28, epochs=20), 20_000, 8),
        "digits MLP": mlp(64, 128, 128, 10, data="digits", side=8, epochs=40, batch=50),
        "ResNet20": lab.sized(resnet(16, epochs=8, examples=20_000), 6_000, 3),
    }
    if not lab.quick:
        recipes["VGG16"] = vgg(16, epochs=8, examples=20_000)
    shares: dict[str, list[float]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for recipe in recipes.values():
        a, b = lab.pair(recipe)
        for way, options in WAYS.items():
            fit = ("--data", lab.data(recipe, train=True, limit=2_000)) if way != "weights" else ()
            out = lab.scratch(f"{b.stem}-{way.replace(' ', '-')}.safetensors")
            document = lab.rebasin("align", a, b, *options, *fit, "-o", out, "--force", recipe=recipe)
            saved = document["outputs"]["permutation"]
            found = lab.barrier(recipe, a, b, "--permutation", saved, steps=5)
            shares[way].append(found["aligned"]["barrier"] / found["naive"]["barrier"])
            seconds[way].append(sum(document["match"]["seconds"].values()))
    figures = "; ".join(
        f"{way}: aligned ÷ naive barrier {', '.join(f'{share:.2f}' for share in shares[way])} in "
        f"{mean(seconds[way]):.1f} s on average" for way in WAYS
    )  # fmt: skip
    costly = mean(seconds["straight-through"]) > 2 * mean(seconds["weights"])
    best = all(
        ste <= min(rest) + 0.02 for ste, *rest in zip(shares["straight-through"], shares["weights"], strict=True)
    )
    alike = max(abs(x - y) for x, y in zip(shares["weights"], shares["activations"], strict=True)) < 0.15
    same = max(abs(x - y) for x, y in zip(shares["activations"], shares["least squares"], strict=True)) < 0.15
    return Outcome(f"{', '.join(recipes)}. {figures}", verdict(costly and best and alike and same, costly and best))


CLAIM = Claim(
    number=6,
    where="§3, §5",
    says=(
        "Activation and weight matching are alike; straight-through is best and costly; correlation is "
        "about as good as least squares"
    ),
    paper="in words",
    rule=(
        "shown: straight-through is within 2 % of weights or better and takes over twice their time, and the "
        "others differ by less than 15 % of the naive barrier; with limits: the first two"
    ),
    run=run,
)
