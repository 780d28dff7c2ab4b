"""Specs and layouts written in a few lines, and pieces shown so that a test can state them."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent
from typing import Any

import pytest

from rebasin_cli.errors import ContentError
from rebasin_cli.spec import Layout, PermutationSpec, Piece, Request, bind
from rebasin_cli.spec.language.loading import parse_spec

Shapes = Mapping[str, tuple[int, ...]]


def spec_of(text: str) -> PermutationSpec:
    """The spec in `text`, which may be indented as a whole."""
    return parse_spec(dedent(text).lstrip("\n"), "test.yaml")


def bound(text: str, shapes: Shapes, **options: Any) -> Layout:
    """The spec in `text` bound to `shapes`."""
    return bind(spec_of(text), shapes, Request(**options))


def refusal(text: str, shapes: Shapes, **options: Any) -> str:
    """What is said when the spec in `text` does not fit `shapes`."""
    with pytest.raises(ContentError) as caught:
        bound(text, shapes, **options)
    return str(caught.value)


def shown(layout: Layout, key: str) -> list[str]:
    """The pieces of a tensor, each as `offset: dim size*stride, …` (`<n`: its owner is side n, `<-1`: the key)."""
    return [_piece(piece) for piece in layout.tensors[key].pieces]


def _piece(piece: Piece) -> str:
    sides = [
        f"{side.dim or '_'}{'' if side.owner is None else f'<{side.owner}'} {side.size}*{side.stride}"
        for side in piece.sides
    ]
    return f"{piece.offset}: {', '.join(sides)}"


def sizes(layout: Layout) -> dict[str, int]:
    """Every dim with its size."""
    return {name: dim.size for name, dim in layout.dims.items()}


def owners(layout: Layout) -> dict[str, str]:
    """Every dim that is within another."""
    return {name: dim.owner for name, dim in layout.dims.items() if dim.owner}


def still(layout: Layout) -> dict[str, str]:
    """Every dim that stays at identity, and why."""
    return {name: dim.fixed for name, dim in layout.dims.items() if dim.fixed}
