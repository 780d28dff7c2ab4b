"""Pieces against a slow oracle: every element of a tensor labelled one by one, by reading the pattern literally."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.spec import Piece, Request, bind
from rebasin_cli.spec.language.loading import parse_spec
from rebasin_cli.spec.language.pattern import Anonymous, Axis, DimName, Pattern, Product, Segment, parse_pattern
from tests.spec.building import bound, shown

Label = tuple[tuple[str, int], ...]
"""The dims of an element, in order, each with its unit."""

SIZES = {"a": 2, "b": 3, "c": 1, "d": 4, "e": 2}
FROZEN = "d"


def label_axis(axis: Axis) -> list[Label]:
    """The label of every step along an axis."""
    return [label for part in axis.segments for label in label_segment(part)]


def label_segment(part: Segment) -> list[Label]:
    if isinstance(part, Anonymous):
        assert isinstance(part.size, int)
        return [()] * part.size
    if isinstance(part, DimName):
        return [((str(part), unit),) for unit in range(SIZES[str(part)])]
    return [sum(labels, ()) for labels in product(*map(label_axis, part.factors))]


def elements(piece: Piece) -> Iterator[tuple[int, Label]]:
    """The place in memory and the label of every element of a piece."""
    for units in product(*(range(side.size) for side in piece.sides)):
        place = piece.offset + sum(unit * side.stride for unit, side in zip(units, piece.sides, strict=True))
        yield place, tuple((side.dim, unit) for unit, side in zip(units, piece.sides, strict=True) if side.dim)


_PARTS = st.one_of(st.sampled_from(sorted(SIZES)), st.integers(1, 3).map(str))
_AXIS = st.recursive(
    _PARTS,
    lambda axis: st.one_of(
        st.lists(axis, min_size=2, max_size=3).map(" + ".join),
        st.lists(axis, min_size=1, max_size=3).map(lambda factors: f"({' '.join(factors)})"),
    ),
    max_leaves=5,
)
_PATTERNS = st.lists(_AXIS, min_size=0, max_size=3).map(" ".join).map(parse_pattern)


@given(_PATTERNS)
def test_pieces_partition_the_tensor_and_carry_its_dims(pattern: Pattern) -> None:
    labels = [label_axis(axis) for axis in pattern.axes]
    shape = tuple(map(len, labels))
    layout = bind(
        parse_spec(f"tensors:\n  x: {pattern}\n" + "".join(f"  only.{d}: {d}\n" for d in SIZES), "t.yaml"),
        {"x": shape, **{f"only.{dim}": (size,) for dim, size in SIZES.items()}},
        Request(freeze=[FROZEN]),
    )
    moving = {dim for dim, size in SIZES.items() if size > 1} - {FROZEN}
    assert set(layout.moving()) == moving

    expected = [tuple(unit for unit in sum(parts, ()) if unit[0] in moving) for parts in product(*labels)]
    found = [element for piece in layout.tensors["x"].pieces for element in elements(piece)]
    assert sorted(place for place, _ in found) == list(range(prod(shape)))  # disjoint, and all of it
    assert dict(found) == dict(enumerate(expected))


@given(_PATTERNS)
def test_still_sides_are_joined_and_never_of_one_step(pattern: Pattern) -> None:
    labels = [label_axis(axis) for axis in pattern.axes]
    shape = tuple(map(len, labels))
    layout = bind(parse_spec(f"tensors:\n  x: {pattern}\n", "t.yaml"), {"x": shape}, Request(overrides=_known(pattern)))
    for piece in layout.tensors["x"].pieces:
        assert not any(side.dim is None and side.size == 1 for side in piece.sides)
        for one, two in zip(piece.sides, piece.sides[1:], strict=False):
            assert one.dim or two.dim or one.stride != two.stride * two.size


def _known(pattern: Pattern) -> dict[str, int]:
    return {str(name): SIZES[str(name)] for name in pattern.dim_names()}


def test_a_tensor_without_axes_is_one_element() -> None:
    layout = bound("tensors:\n  scale:\n", {"scale": ()})
    assert shown(layout, "scale") == ["0: "]


def test_an_axis_on_which_nothing_moves_is_one_side() -> None:
    layout = bound("tensors:\n  x: 2 + 3 + (2 2) h\n  y: h\n", {"x": (9, 5), "y": (5,)})
    assert shown(layout, "x") == ["0: _ 9*5, h 5*1"]
    layout = bound("tensors:\n  x: a + b h\n  y: h\n  z: a\n", {"x": (9, 5), "y": (5,), "z": (4,)}, freeze=["a", "b"])
    assert shown(layout, "x") == ["0: _ 9*5, h 5*1"]


def test_a_dim_of_one_unit_is_no_side() -> None:
    assert shown(bound("tensors:\n  x: c (c b)\n  y: c\n", {"x": (1, 3), "y": (1,)}), "x") == ["0: b 3*1"]


def test_sums_inside_products_and_products_inside_sums() -> None:
    layout = bound(
        "tensors:\n  x: (a (b + 2)) + b\n  y: a\n  z: b\n",
        {"x": (13,), "y": (2,), "z": (3,)},
    )
    assert shown(layout, "x") == ["0: a 2*5, b 3*1", "3: a 2*5, _ 2*1", "10: b 3*1"]


def test_the_oracle_reads_a_product_row_by_row() -> None:
    assert isinstance(parse_pattern("(a c)").axes[0].segments[0], Product)
    assert label_axis(parse_pattern("(a b)").axes[0])[4] == (("a", 1), ("b", 1))
