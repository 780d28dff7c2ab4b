"""Figure 1: the loss in the plane through A, B and π(B)."""

from __future__ import annotations

import json

from rebasin_cli.report.codec import from_json
from rebasin_cli.report.plane_svg import plane_svg
from tests.paper.lab import Lab, mlp
from tests.paper.outcome import Claim, Outcome, verdict


def run(lab: Lab) -> Outcome:
    recipe = lab.sized(mlp(784, 512, 512, 512, 10, side=28, epochs=20), 20_000, 8)
    a, b = lab.pair(recipe)
    data = lab.data(recipe, limit=1_000 if lab.quick else 10_000)
    document = lab.rebasin("plane", a, b, "--data", data, "--steps", 11 if lab.quick else 25)
    points = {name: point["loss"] for name, point in document["plane"]["points"].items()}
    naive, aligned = points["middle of A and B"], points["middle of A and π(B)"]
    end = max(points["A"], points["B"])
    figures = ", ".join(f"{name} {loss:.3f}" for name, loss in points.items())
    plane = from_json(json.dumps(document), "the run").plane
    assert plane is not None
    one_basin = aligned - end < 0.02 * (naive - end)
    picture = plane_svg(plane).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    caption = "Loss in the plane through A, B and π(B)"
    return Outcome(figures, verdict(one_basin, aligned < naive), ((caption, picture),))


CLAIM = Claim(
    number=18,
    where="Fig. 1",
    says="A and π(B) lie in one basin, B in another",
    paper="a picture",
    rule=(
        "shown: the middle of A and π(B) is no more than 2 % of the naive middle's rise above the ends; "
        "with limits: lower"
    ),
    run=run,
)
