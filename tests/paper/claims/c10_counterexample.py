"""Section 4 and A.6: two perfect networks that no permutation brings together."""

from __future__ import annotations

from itertools import product

import torch
from safetensors.torch import save_file

from tests.paper.lab import Lab, middle
from tests.paper.outcome import REFUTED, SHOWN, Claim, Outcome

# Both say whether two numbers are not negative, by min(x, 0) of either: A flips the second first, B the first.
A = {
    "fc.0.weight": [[1, 0], [0, -1]], "fc.0.bias": [1, 0], "fc.1.weight": [[-1, 0], [0, 1]], "fc.1.bias": [1, 0],
    "fc.2.weight": [[-1, -1]], "fc.2.bias": [0],
}  # fmt: skip
B = {
    "fc.0.weight": [[-1, 0], [0, 1]], "fc.0.bias": [0, 1], "fc.1.weight": [[1, 0], [0, -1]], "fc.1.bias": [0, 1],
    "fc.2.weight": [[-1, -1]], "fc.2.bias": [0],
}  # fmt: skip


def run(lab: Lab) -> Outcome:
    a, b = lab.scratch("counterexample-a.safetensors"), lab.scratch("counterexample-b.safetensors")
    for path, weights in ((a, A), (b, B)):
        save_file({key: torch.tensor(value, dtype=torch.float32) for key, value in weights.items()}, path)
    data = "tests.paper.claims.c10_counterexample:examples"
    errors = {}
    for first, second in product((False, True), repeat=2):
        saved = _permutation(lab, first=first, second=second)
        barrier = lab.rebasin(
            "interpolate", a, b, "--permutation", saved, "--data", data, "--metric",
            "tests.paper.claims.c10_counterexample:error", "--loss", "mse", "--steps", 3,
        )["barrier"]  # fmt: skip
        name = " and ".join([*(["layer 1"] if first else []), *(["layer 2"] if second else [])]) or "nothing"
        errors[name] = middle(barrier["aligned"]["metrics"]["error"])
        ends = max(barrier["aligned"]["metrics"]["error"][0], barrier["aligned"]["metrics"]["error"][-1])
    figures = f"error of the ends {ends:.2f}; at λ = ½ with swapped " + ", ".join(
        f"{n}: {e:.2f}" for n, e in errors.items()
    )
    return Outcome(figures, SHOWN if ends == 0 and min(errors.values()) > 0.1 else REFUTED)


def _permutation(lab: Lab, *, first: bool, second: bool) -> object:
    """A permutation file that swaps the two units of a layer, or leaves them."""
    path = lab.scratch(f"counterexample-{first:d}{second:d}.permutation.safetensors")
    order = {True: [1, 0], False: [0, 1]}
    from rebasin_cli.permutation.files import permutation_bytes
    from rebasin_cli.permutation.values import Permutation
    from rebasin_cli.spec import detect

    layout = detect({key: tuple(torch.tensor(value).shape) for key, value in A.items()})
    value = Permutation({"h.0": torch.tensor(order[first]), "h.1": torch.tensor(order[second])})
    path.write_bytes(permutation_bytes(value, layout, inputs={}))
    return path


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the square from −1 to 1 and whether neither coordinate is negative."""
    points = torch.rand(4096, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return points, ((points >= 0).all(1)).float()[:, None]


def error(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """The share of wrong answers: an output of zero or more says that neither is negative."""
    return float(((outputs >= 0).float() != targets).float().mean())


CLAIM = Claim(
    number=10,
    where="§4, A.6",
    says="A counterexample: perfect ends, and no permutation helps",
    paper="a figure; the script has PReLU(.01), the paper ReLU",
    rule="shown: no error at the ends, and more than 10 % at λ = ½ for all four permutations",
    run=run,
)
