"""An axis as it is written in messages, and its leaves."""

from __future__ import annotations

import pytest

from rebasin_cli.spec.binding.equations import Leaf, Plus, Times

HEAD, ANY = Leaf("dim:head.0", "head.0"), Leaf("_:7")


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (HEAD, "head.0"),
        (Leaf(3), "3"),
        (Leaf("size:head_dim"), "_:head_dim"),
        (ANY, "_"),
        (Times((Plus((HEAD,)), Plus((Leaf(3), ANY)))), "(head.0 3 + _)"),
        (Plus((Times((Plus((HEAD,)), Plus((ANY,)))), Leaf("dim:v", "v"))), "(head.0 _) + v"),
    ],
)
def test_an_axis_is_written_as_specs_write_it(part: Leaf | Times | Plus, text: str) -> None:
    assert str(part) == text


def test_leaves_come_in_order_from_all_depths() -> None:
    inner = Plus((Leaf(3), ANY))
    assert list(Plus((Times((Plus((HEAD,)), inner)), Leaf(2))).leaves()) == [HEAD, Leaf(3), ANY, Leaf(2)]
