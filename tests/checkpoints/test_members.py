"""Copies of one network in a file, told by the names and shapes of tensors."""

from __future__ import annotations

import pytest

from rebasin_cli.checkpoints.header import TensorInfo
from rebasin_cli.checkpoints.members import copies


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ({"0.f.w": 3, "0.f.b": 1, "1.f.w": 3, "1.f.b": 1}, ("", ("0", "1"))),
        ({"m.10.f.w": 3, "m.9.f.w": 3}, ("m.", ("9", "10"))),
        ({"e.m.teacher.f.w": 3, "e.m.student.f.w": 3}, ("e.m.", ("teacher", "student"))),
        ({"0.f.w": 3, "0.b": 1, "1.f.w": 3, "1.b": 1}, ("", ("0", "1"))),
        ({"0.w": 3, "0.b": 1, "1.w": 3, "1.b": 1}, None),  # the layers of one network
        ({"0.f.w": 3, "1.f.w": 4}, None),
        ({"0.f.w": 3, "1.f.w": 3, "head": 3}, None),
        ({"w": 3, "b": 3}, None),
        ({"m.w": 3}, None),
        ({}, None),
    ],
)
def test_copies_are_told_by_names_and_shapes(shapes: dict[str, int], found: object) -> None:
    infos = {name: TensorInfo("F32", (size,)) for name, size in shapes.items()}
    assert copies(infos) == found
