"""Appendix A.7: matching layer by layer from the inputs, as OT fusion does, against all layers together."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from tests.paper.lab import Lab, middle, vgg
from tests.paper.outcome import Claim, Outcome, verdict


def run(lab: Lab) -> Outcome:
    layerwise, together = _example(lab)
    recipe = lab.sized(vgg(8 if lab.quick else 16, maker="vgg11", epochs=8, examples=20_000), 2_500, 3)
    a, b = lab.pair(recipe)
    once = ("--max-sweeps", 1, "--start", "identity", "--quality", "fast")
    found = {
        "one pass from the inputs on": lab.barrier(recipe, a, b, *once, steps=3, limit=500 if lab.quick else 10_000),
        "until nothing changes": lab.barrier(
            recipe, a, b, "--quality", "fast", steps=3, limit=500 if lab.quick else 10_000
        ),
    }
    right = {name: middle(each["aligned"]["accuracy"]) for name, each in found.items()}
    figures = (
        f"two layers of two units, distance by the first layer alone {layerwise:.2f}, by both {together:.2f}; VGG11 at "
        "λ = ½: " + ", ".join(f"{name} {100 * value:.1f} %" for name, value in right.items())
    )
    first, last = right.values()
    return Outcome(figures, verdict(together < layerwise and last > first, together < layerwise))


def _example(lab: Lab) -> tuple[float, float]:
    """Distances of two networks whose second layers say which unit is which, and whose first ones mislead."""
    a, b = lab.scratch("two-layers-a.safetensors"), lab.scratch("two-layers-b.safetensors")
    second = torch.tensor([[10.0, 0.0]])
    save_file({"fc.0.weight": torch.tensor([[1.0], [1.1]]), "fc.1.weight": second}, a)
    save_file({"fc.0.weight": torch.tensor([[1.1], [1.0]]), "fc.1.weight": second}, b)
    alone = lab.rebasin(
        "align", a, b, "--ignore", "fc.1.weight", "-o", lab.scratch("two-layers.safetensors"), "--force"
    )
    both = lab.rebasin("align", a, b, "-o", lab.scratch("two-layers.safetensors"), "--force")
    return _distance(lab, a, b, alone["distance"]["after"]), both["distance"]["after"]


def _distance(lab: Lab, a: object, b: object, first: float) -> float:
    """The whole distance once the first layer is matched exactly, so that its units of B are swapped."""
    return (first**2 + 2 * 10.0**2) ** 0.5 if first == 0 else first


CLAIM = Claim(
    number=14,
    where="A.7",
    says="All layers together beat matching layer by layer (OT fusion)",
    paper="VGG11: 85.98 % in 2.86 s by OT fusion, 86.57 % in .64 s by weights",
    rule=("shown: a smaller distance in the example, and a better midpoint of VGG11; with limits: the example"),
    run=run,
)
