"""Appendix A.11: permuting B along A's steepest descent does not work."""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.paper.lab import Lab, data_of, mlp
from tests.paper.networks import MAKERS
from tests.paper.outcome import Claim, Outcome, verdict


def run(lab: Lab) -> Outcome:
    recipe = lab.sized(mlp(784, 512, 512, 512, 10, side=28, epochs=20), 20_000, 8)
    a, b = lab.pair(recipe)
    downhill = lab.scratch("downhill.safetensors")
    network = MAKERS[recipe.maker](**dict(recipe.options))
    network.load_state_dict(load_file(a))
    found = data_of(recipe, lab.root)
    loss = nn.functional.cross_entropy(network(found.inputs[:5_000]), found.targets[:5_000])
    gradient = torch.autograd.grad(loss, list(network.parameters()))
    names = [name for name, _ in network.named_parameters()]
    save_file({name: -part for name, part in zip(names, gradient, strict=True)}, downhill)
    # The slope of the loss from A towards π(B) is ⟨∇L(A), π(B) − A⟩: the match of B to −∇L(A) makes it lowest.
    along = lab.rebasin("align", downhill, b, "-o", lab.scratch("steepest.safetensors"), "--force")
    steep = lab.barrier(recipe, a, b, "--permutation", along["outputs"]["permutation"])
    ours = lab.barrier(recipe, a, b)
    naive, weights, steepest = (each["barrier"] for each in (ours["naive"], ours["aligned"], steep["aligned"]))
    figures = f"barrier: naive {naive:.3f}, steepest descent {steepest:.3f}, weights {weights:.4f}"
    return Outcome(figures, verdict(steepest > 0.5 * naive, steepest > 10 * weights))


CLAIM = Claim(
    number=16,
    where="A.11",
    says="A failed idea: the permutation in whose direction the loss falls most steeply",
    paper="in words",
    rule=("shown: its barrier is over half of the naive one; with limits: over ten times that of weight matching"),
    run=run,
)
