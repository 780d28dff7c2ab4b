"""What a distance says of dims."""

from __future__ import annotations

import pytest
import torch

from rebasin_cli.matching.objective import inner_product, measure_distance
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import bind
from rebasin_cli.spec.language.loading import parse_spec

ALIBI = """
dims:
  head: fixed because each has a slope of its own
  v: within head
tensors:
  value: (head v) _
  out: _ (head v)
"""


def test_what_moves_inside_heads_that_stay_gains_for_these() -> None:
    shapes = {"value": (6, 4), "out": (4, 6)}
    layout = bind(parse_spec(ALIBI + "sizes:\n  head: 2\n", "alibi.yaml"), shapes)
    a, b = ({key: torch.randn(shape, dtype=torch.float64) for key, shape in shapes.items()} for _ in range(2))
    drawn, stays = Permutation.random(layout, 1), Permutation.identity(layout)
    assert drawn.count_moved()
    gains = measure_distance(layout, a, b, drawn).gains
    rise = inner_product(layout, a, b, drawn) - inner_product(layout, a, b, stays)
    assert gains == {"head": pytest.approx(rise)}
