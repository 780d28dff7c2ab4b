"""`same as … if equal`: streams that a block may or may not add to one another."""

from __future__ import annotations

import pytest

from rebasin_cli.spec import Layout
from tests.spec.building import bound, sizes

TEXT = """
dims:
  s.{i}: same as s.{i-1} if equal
tensors:
  "{i}.down.weight": m.{i} s.{i-1}
  "{i}.up.weight": s.{i} m.{i}
  stem.weight: s.0 _
"""


def blocks(*widths: int) -> Layout:
    """A stem and blocks of these widths, each with 11 units inside."""
    shapes = {"stem.weight": (widths[0], 3)}
    for i in range(1, len(widths)):
        shapes |= {f"{i}.down.weight": (11, widths[i - 1]), f"{i}.up.weight": (widths[i], 11)}
    return bound(TEXT, shapes)


@pytest.mark.parametrize(
    ("widths", "streams"),
    [
        ((4, 5, 6), {"s.0": 4, "s.1": 5, "s.2": 6}),
        ((4, 4, 4), {"s.0": 4}),
        ((4, 4, 6, 6, 6, 4), {"s.0": 4, "s.2": 6, "s.5": 4}),
    ],
)
def test_neighbours_of_equal_size_are_one(widths: tuple[int, ...], streams: dict[str, int]) -> None:
    found = sizes(blocks(*widths))
    assert {name: size for name, size in found.items() if name.startswith("s.")} == streams


def test_both_sides_of_a_block_carry_the_one_stream() -> None:
    tensors = blocks(4, 4, 6).tensors
    assert list(tensors["1.up.weight"].dims()) == ["s.0", "m.1"]
    assert list(tensors["2.down.weight"].dims()) == ["m.2", "s.0"]
    assert list(tensors["2.up.weight"].dims()) == ["s.2", "m.2"]
